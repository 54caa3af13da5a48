"""memalloc: are inputs taken from where they are, and outputs put where the allocator says?

After MemoryAllocTest of Triton's own QA: an add/sub model, inputs on one memory type, outputs asked for on another, and
two versions of the inputs under different host policies. Here every step is checked and a crash or a hang is a result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from harness.cases import Case
from harness.journal import all_of, last
from harness.load import InTurn
from harness.scenario import Context, Line, Operation, Outcome, Run, Scenario
from harness.verdict import Check, Verdict

from ._litter import LITTER

# What every Triton says on a machine without a GPU.
_HARMLESS = ("Unable to allocate pinned system memory", "CudaDriverHelper has not been initialized")
ROUNDS = 2  # requests of a run


def build(options: Mapping[str, Any]) -> Scenario:
    """The scenario: a few requests, one after the other."""
    return Scenario(
        name="memalloc",
        system=system,
        workload=workload,
        load=InTurn(ROUNDS),
        checkers=[judge],
        summary=summary,
        appendix=log_lines,
        proved=proved,
        brief=True,
        planted=options["fault"] or "",
        litter=LITTER,
    )


def system(context: Context) -> AbstractContextManager[Any]:
    """The server with its model."""
    from . import _memalloc_run  # noqa: PLC0415 - NumPy and the library, in the child only

    return _memalloc_run.system(context)


def workload(bench: Any, operation: Operation) -> Outcome:
    """One request."""
    from . import _memalloc_run  # noqa: PLC0415

    return _memalloc_run.workload(bench, operation)


def judge(run: Run) -> list[Check]:
    """All checks."""
    from . import _memalloc_checks  # noqa: PLC0415 - in the parent only

    return _memalloc_checks.judge(run)


def proved(run: Run) -> str:
    """What a pass says."""
    o = run.options
    policy = f" under host policy {o['host_policy']}" if o["host_policy"] else ""
    return f"inputs on {o['input']}, outputs on {o['output']}{policy}: every value and every place is right"


def complete(options: dict[str, Any]) -> dict[str, Any]:
    """The options with what follows from them."""
    import uuid  # noqa: PLC0415 - in the parent only

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


def summary(run: Run) -> Iterator[Line]:
    """Which Triton, and the tensors' ways."""
    from rich.text import Text  # noqa: PLC0415 - rich takes its time

    from harness.report import table  # noqa: PLC0415

    library = last(run.ended.events, "library")
    if library is not None:
        where = f" ({library['path']})" if run.options["verbose"] else ""
        yield Text(f"Triton: {library['why']}{where}", style="dim")
    rows = ways(run)
    if rows:
        yield from table(["tensor", "given on", "computed on", "asked", "preferred", "actual", "reported"], rows)
        yield ""


def ways(run: Run) -> list[list[str]]:
    """A row for each tensor of the last round: where it was given, computed, asked for, preferred, put, reported."""
    from ._memalloc_checks import rounds_of  # noqa: PLC0415

    rounds, options = rounds_of(run), run.options
    if not rounds:
        return []
    computed = str(rounds[-1]["parameters"].get("computed_on", "-"))
    given = options["input"] + (f" [{options['host_policy']}]" if options["host_policy"] else "")
    rows = [[name, given, computed, "", "", "", ""] for name in ("INPUT0", "INPUT1")]
    records = {(a["tensor"], a["address"]): a for a in all_of(run.ended.events, "allocation")}
    for tensor in rounds[-1]["tensors"]:
        record = records.get((tensor["name"], tensor["address"]), {})
        places = [str(record.get(key, "?")) for key in ("asked", "preferred", "actual")]
        rows.append([tensor["name"], "", computed, *places, tensor["reported"]])
    return rows


def log_lines(run: Run, verdict: Verdict) -> Iterator[Line]:
    """Triton's log: all of it with -v; after a failure its last warnings and errors."""
    from rich.text import Text  # noqa: PLC0415

    verbose = run.options["verbose"]
    lines = [*run.ended.log, *run.ended.errors]
    if not verbose:
        loud = (line for line in lines if line[:1] in "EW" and line[1:2].isdigit())
        lines = [line for line in loud if not any(text in line for text in _HARMLESS)][-8:]
    if lines and (verbose or verdict != Verdict.PASS):
        title = "Triton's log:" if verbose else "Last warnings and errors of Triton's log:"
        yield Text(f"\n{title}", style="bold")
        yield from (f"  {line}".rstrip() for line in lines)


def cases() -> Iterator[Case]:
    """Every form that demo runs on a machine with two GPUs."""
    from functools import partial  # noqa: PLC0415

    from . import demo  # noqa: PLC0415 - it builds on this module

    forms = demo.cpu_cases()
    forms += [form for form in demo.gpu_cases(2) if form not in forms]
    for case in forms:
        given, asked, device, policy = (case[key] for key in ("input", "output", "model_device", "host_policy"))
        name = f"{case['backend']}-{case['datatype']}-on-{device}-from-{given}-to-{asked}"
        words = ["memalloc", "--backend", case["backend"], "--datatype", case["datatype"], "--model-device", device]
        words += ["-i", given, "-o", asked]
        if policy:
            name, words = f"{name}-{policy}", [*words, "-h", policy]
        gpus, excuse = gpus_of(given, asked, device), partial(demo.stuck_stub, case)
        yield Case(name, tuple(words), gpus, demo.known_defect(case), excuse)


def gpus_of(*places: str) -> int:
    """How many GPUs a machine must have for these places."""
    devices = [int(place.removeprefix("gpu:")) for place in places if place.startswith("gpu:")]
    return max(devices, default=0 if "pinned" in places else -1) + 1
