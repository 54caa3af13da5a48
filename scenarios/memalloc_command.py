"""memalloc's command line; apart from the scenario, so that the child does without click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.command import run_and_report, run_options
from harness.errors import UsageError
from harness.options import json_option, timeout_option, triton_option
from model_repos import faults

from .memalloc import complete

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
@run_options
def command(input_: str, **options: Any) -> None:
    """Proves where inputs are taken from and outputs are put.

    Starts a Triton inside a child process, runs an add/sub model with inputs on one kind of memory and outputs on
    another, and checks values, places, host policies, releases and the log.
    """
    own = {name: options.pop(name) for name in ("json_file", "runs", "quiet", "in_process")}
    check_options(options)
    check_repository(options["repository"], options["model"])
    run_and_report("scenarios.memalloc:build", complete({"input": input_, **options}), own)


def check_options(options: dict[str, Any]) -> None:
    """Raises UsageError for options that contradict each other, or that memalloc would silently do nothing with."""
    for name in ("repository", "model", "host_policy", "fault", "triton"):
        if options[name] == "":
            raise UsageError(f"--{name.replace('_', '-')} is empty")
    try:
        planted = faults.names(options["fault"]) if options["fault"] else []
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from None
    for fault in planted:
        if fault.startswith("leak_"):
            raise UsageError(f"--fault {fault}: two requests show no leak; multiserver sees leak_*_load")
        if fault == "drop_chunk":
            raise UsageError(f"--fault {fault}: memalloc gives its inputs in one piece; matrix sees it")
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
