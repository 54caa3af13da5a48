"""memalloc: are inputs taken from where they are, and outputs put where the allocator says?

After MemoryAllocTest of Triton's own QA: an add/sub model, inputs on one memory type, outputs asked for on another, and
two versions of the inputs under different host policies. Here every step is checked and a crash or a hang is a result.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness import child
from harness.errors import LacksError, UsageError
from harness.journal import all_of, last
from harness.options import json_option, timeout_option, triton_option
from harness.verdict import Check, ExitCode, Verdict, exit_code, overall

from ._litter import LITTER
from ._memalloc_checks import judge

# What every Triton says on a machine without a GPU.
_HARMLESS = ("Unable to allocate pinned system memory", "CudaDriverHelper has not been initialized")
_PLACE = "A device id, -1 for the CPU, or cpu, pinned, gpu:N"


class PlaceType(click.ParamType):  # type: ignore[type-arg] # generic in click's newer stubs only
    """A place as a word of its own kind, so that the parent need not load the library to read it."""

    name = "PLACE"

    def __init__(self, *also: str) -> None:
        self._also = also

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The place in its long form."""
        word = value.strip().lower()
        if word in self._also:
            return word
        if word in ("cpu", "pinned"):
            return word
        if word == "-1":
            return "cpu"
        number = word.removeprefix("gpu:")
        if number.isascii() and number.isdigit():
            return f"gpu:{int(number)}"
        words = ", ".join(("cpu", "pinned", "gpu:N", *self._also))
        raise click.BadParameter(f"{value!r} is no place: use {words}, -1 or a device id", ctx, param)


@dataclass(frozen=True)
class Result:
    """A judged run."""

    options: dict[str, Any]
    ended: child.Ended
    checks: list[Check]

    @property
    def verdict(self) -> Verdict:
        """The verdict over all checks."""
        return overall(self.checks)

    @property
    def sentence(self) -> str:
        """Why: the first check of the verdict's kind, or what was proved."""
        for check in self.checks:
            if check.verdict == self.verdict and self.verdict != Verdict.PASS:
                return " ".join(f"{check.name}: {check.sentence}".split())
        o = self.options
        policy = f" under host policy {o['host_policy']}" if o["host_policy"] else ""
        return f"inputs on {o['input']}, outputs on {o['output']}{policy}: every value and every place is right"

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        ended = self.ended
        return {
            "scenario": "memalloc",
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "options": self.options,
            "checks": [check.as_json() for check in self.checks],
            "process": {
                "how": ended.how,
                "code": ended.code,
                "signal": ended.signal,
                "seconds": ended.seconds,
                "phase": ended.phase,
                "leftovers": ended.leftovers,
                "stacks": ended.stacks,
            },
            "journal": ended.events,
            "log": ended.log[-400:],
            "errors": ended.errors[-400:],
        }


def run(options: dict[str, Any]) -> Result:
    """Runs memalloc in a child process. Raises UsageError and LacksError for what kept it from beginning."""
    check_repository(options.get("repository"), options.get("model"))
    options = complete(options)
    with tempfile.TemporaryDirectory(prefix="tritoncapi-memalloc-") as folder:
        job = child.Job("scenarios._memalloc_run:run", options, options["timeout"], LITTER)
        ended = child.run(job, Path(folder))
    for name, error in (("usage", UsageError), ("lacks", LacksError)):
        event = last(ended.events, name)
        if event is not None:
            raise error(event["text"])
    return Result(options, ended, judge(ended, options))


def complete(options: dict[str, Any]) -> dict[str, Any]:
    """The options with what follows from them."""
    full = {
        "input": "cpu",
        "output": "cpu",
        "repository": None,
        "model": None,
        "host_policy": None,
        "datatype": "int32",
        "backend": "native",
        "model_device": None,
        "fault": None,
        "triton": None,
        "timeout": 60.0,
        "verbose": False,
        **options,
        # Triton's Python backend refuses names with spaces; this one is ours alone.
        "shm_prefix": f"tritoncapi_{os.getpid()}_{uuid.uuid4().hex[:8]}_",
    }
    for name in ("repository", "triton"):  # the child has a working directory of its own
        if full[name]:
            full[name] = os.path.abspath(os.path.expanduser(full[name]))
    if not full["model_device"] and not full["repository"]:
        places = (full["input"], full["output"])
        full["model_device"] = next((place for place in places if place.startswith("gpu:")), "cpu")
    return full


def check_repository(repository: str | None, model: str | None) -> None:
    """Raises UsageError for a repository or a model that is not there."""
    if (repository is None) != (model is None):
        raise UsageError("-r and -m go together: the repository, and the model in it to run")
    if repository is None or model is None:
        return
    root = Path(repository)
    if not root.is_dir():
        raise UsageError(f"-r {repository}: there is no such directory")
    models = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if model not in models:
        raise UsageError(f"-m {model}: {repository} has no such model; it has {', '.join(models) or 'none'}")
    config = root / model / "config.pbtxt"
    if not config.exists():
        return  # the backend may complete it; loading will tell
    try:
        config.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"{config} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{config} is no text file: {error.reason} at byte {error.start}") from error


@click.command()
@click.option("-i", "--input", "input_", type=PlaceType(), default="cpu", help=f"Where inputs are given. {_PLACE}.")
@click.option(
    "-o",
    "--output",
    type=PlaceType("preferred"),
    default="cpu",
    help="Where outputs are asked for: likewise, or preferred: where the model wants them.",
)
@click.option("-r", "--repository", metavar="DIR", help="A model repository of your own (with -m).")
@click.option("-m", "--model", metavar="NAME", help="An add/sub model in it.")
@click.option("-h", "--host-policy", metavar="NAME", help="Give the real data under this policy, zeros else.")
@click.option("-v", "--verbose", is_flag=True, help="Verbose Triton log, shown at the end.")
@click.option("--datatype", type=click.Choice(["int32", "fp32", "bytes"]), default="int32", show_default=True)
@click.option("--backend", type=click.Choice(["native", "python"]), default="native", show_default=True)
@click.option(
    "--model-device",
    type=PlaceType(),
    help="Where our model computes. Default: the GPU of -i or -o, else cpu.",
)
@click.option("--fault", metavar="NAME[:VALUE]", help="Plant a fault in the test backend, to see it caught.")
@timeout_option(60)
@triton_option
@json_option
def command(input_: str, json_file: Path | None, **options: Any) -> None:
    """Proves where inputs are taken from and outputs are put.

    Starts a Triton inside a child process, runs an add/sub model with inputs on one kind of memory and outputs on
    another, and checks values, places, host policies, releases and the log.
    """
    from harness import report  # noqa: PLC0415 - rich takes its time; --help does without

    check_options(options)
    report.check_writable(json_file)
    out = report.console()
    try:
        result = run({"input": input_, **options})
    except child.Interrupted:
        out.print(report.verdict_line("memalloc", Verdict.UNKNOWN, "interrupted; nothing was left behind"))
        raise SystemExit(ExitCode.UNKNOWN) from None
    if json_file is not None:
        report.write_json(json_file, result.as_json())
    if str(json_file) != "-":
        show(result, options["verbose"])
    raise SystemExit(exit_code(result.verdict))


def check_options(options: dict[str, Any]) -> None:
    """Raises UsageError for options that contradict each other, or that memalloc would silently do nothing with."""
    for name in ("repository", "model", "host_policy", "fault", "triton"):
        if options[name] == "":
            raise UsageError(f"--{name.replace('_', '-')} is empty")
    for fault in (options["fault"] or "").split(","):
        if fault.startswith("leak_"):
            raise UsageError(f"--fault {fault}: two requests show no leak; multiserver sees leak_*_load")
        if fault == "ignore_host_policy" and not options["host_policy"]:
            raise UsageError(f"--fault {fault} shows only with -h NAME")
    if options["repository"] is not None or options["model"] is not None:
        for name in ("fault", "model_device"):
            if options[name]:
                raise UsageError(f"--{name.replace('_', '-')} belongs to the built-in models; leave out -r and -m")
    elif options["fault"] and options["backend"] != "native":
        raise UsageError("--fault needs --backend native: only the test backend can plant faults")
    if options["model_device"] == "pinned":
        raise UsageError("--model-device pinned: a model computes on cpu or gpu:N")


def show(result: Result, verbose: bool) -> None:
    """Prints the tensors' ways, the checks and the verdict."""
    from harness import report  # noqa: PLC0415

    out = report.console()
    library = last(result.ended.events, "library")
    if library is not None:
        where = f" ({library['path']})" if verbose else ""
        out.print(f"Triton: {library['why']}{where}", style="dim")
    rows = ways(result)
    if rows:
        out.print(report.table(["tensor", "given on", "computed on", "asked", "preferred", "actual", "reported"], rows))
        out.print()
    report.print_checks(out, result.checks)
    report.print_stacks(out, result.ended, result.verdict, all_lines=verbose)
    lines = [*result.ended.log, *result.ended.errors]
    shown = lines if verbose else []
    if not verbose and result.verdict != Verdict.PASS:
        loud = (line for line in lines if line[:1] in "EW" and line[1:2].isdigit())
        shown = [line for line in loud if not any(text in line for text in _HARMLESS)][-8:]
    if shown:
        out.print("\nTriton's log:" if verbose else "\nLast warnings and errors of Triton's log:", style="bold")
        for line in shown:
            out.print(f"  {line}", markup=False)
    out.print(report.verdict_line("memalloc", result.verdict, result.sentence))


def ways(result: Result) -> list[list[str]]:
    """A row for each tensor of the last round: where it was given, computed, asked for, preferred, put, reported."""
    event = last(result.ended.events, "round")
    if event is None:
        return []
    options = result.options
    computed = str(event["parameters"].get("computed_on", "-"))
    given = options["input"] + (f" [{options['host_policy']}]" if options["host_policy"] else "")
    rows = [[name, given, computed, "", "", "", ""] for name in ("INPUT0", "INPUT1")]
    records = {(a["tensor"], a["address"]): a for a in all_of(result.ended.events, "allocation")}
    for tensor in event["tensors"]:
        record = records.get((tensor["name"], tensor["address"]), {})
        places = [str(record.get(key, "?")) for key in ("asked", "preferred", "actual")]
        rows.append([tensor["name"], "", computed, *places, tensor["reported"]])
    return rows
