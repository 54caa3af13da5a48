"""multiserver: many servers in one process, truly at once.

After MultiServerTest of Triton's own QA: each thread makes a server of its own, again and again, with a common
repository and one of its own, uses it and deletes it. Here the threads really run at once, what one server has is
checked not to show in another, and what the loops leave behind is measured.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import click

from harness.cases import Case
from harness.cli import LazyGroup
from harness.command import run_and_report, run_options
from harness.endings import leftovers_check, process_check
from harness.errors import UsageError
from harness.load import Barrier, Lasting
from harness.options import Seconds, json_option, timeout_option, triton_option
from harness.processes import environment
from harness.scenario import Context, Operation, Outcome, Run, Scenario
from model_repos import faults

from ._litter import LITTER
from ._multiserver_checks import FEWEST_LOOPS, concurrency, containment, leaks, life_cycles, problems
from ._multiserver_faults import KILL_STUB, kill_stub

ROUNDS = 10
LIMIT = 600.0  # seconds
METRICS = ("nv_inference_count", "nv_inference_request_failure", "nv_inference_pending_request_count")
UNSEEN = ("drop_chunk", "ignore_host_policy", "log_copy_error", "wrong_preferred")  # faults that do nothing here
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")


def build(options: Mapping[str, Any]) -> Scenario:
    """The scenario of these options."""
    return Scenario(
        name="multiserver",
        system=system,
        workload=workload,
        load=load_of(options),
        faults=[kill_stub] if options["fault"] == KILL_STUB else [],
        probes=probes,
        checkers=[process_check, life_cycles, concurrency, problems, containment, leaks, leftovers_check],
        probe_interval=0.1,
        planted=options["fault"] or "",
        litter=LITTER,
        summary=summary,
    )


def load_of(options: Mapping[str, Any]) -> Barrier | Lasting:
    """A number of loops, or as many as fit into a duration."""
    threads, stagger = options["threads"], options["stagger"]
    if options["duration"] is None:
        return Barrier(threads, options["loops"], ROUNDS, stagger)
    return Lasting(threads, options["duration"], 4, stagger, options["churn"], options["seed"])


def system(context: Context) -> AbstractContextManager[Any]:
    """The fleet of servers."""
    # OpenBLAS starts threads when NumPy is imported, ends them at any fork and starts them again later: a number of
    # threads that comes and goes. Nothing here multiplies matrices.
    with environment(OPENBLAS_NUM_THREADS="1"):
        from . import _multiserver_cycle, _multiserver_fleet  # noqa: F401, PLC0415 - NumPy, in the child only

    return _multiserver_fleet.system(context)


def workload(fleet: Any, operation: Operation) -> Outcome:
    """One life cycle."""
    from . import _multiserver_cycle  # noqa: PLC0415

    return _multiserver_cycle.workload(fleet, operation)


def probes(context: Context, fleet: Any) -> Sequence[Any]:
    """What a leak shows in, and Triton's own counters."""
    if not context.options["probes"]:
        return ()
    from harness.probes import metrics_probe, process_probes  # noqa: PLC0415

    found = process_probes(shm_prefix=context.options["shm_prefix"], gpu=context.options["memory"] != "system")
    return [*found, metrics_probe(fleet.metrics, METRICS, every=5, sums=True)]


def seconds(text: str) -> float:
    """``90``, ``90s``, ``10m``, ``2h`` in seconds. Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is no duration: use 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


@click.command()
@click.option("-t", "--threads", type=click.IntRange(1, 512), default=8, show_default=True, help="Servers at once.")
@click.option("-l", "--loops", type=click.IntRange(1), default=20, show_default=True, help="Life cycles a thread.")
@click.option(
    "-m",
    "--memory",
    type=click.Choice(["system", "pinned", "gpu"]),
    default="system",
    show_default=True,
    help="Where inputs and outputs are; with gpu the models are there too.",
)
@click.option(
    "-r", "--repository", "repositories", multiple=True, metavar="DIR", help="t + 1 times: one common, t unique ones."
)
@click.option("-v", "--verbose", is_flag=True, help="Verbose Triton log.")
@click.option("--backend", type=click.Choice(["native", "python", "mixed"]), default="native", show_default=True)
@click.option("--duration", metavar="TIME", help="Run for this long (90s, 10m, 2h) instead of -l loops.")
@click.option("--stagger", metavar="TIME", default="0", help="Thread n begins n times this after the barrier.")
@click.option("--churn", metavar="TIME", help="With --duration: pause at random up to this between servers.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the churn.")
@click.option("--fault", metavar="NAME[:VALUE]", help="Plant a fault in the threads' own models.")
@click.option("--fault-thread", type=click.IntRange(0), metavar="N", help="Only in thread N (from 0).")
@click.option("--stop-timeout", type=Seconds(1), default=10.0, show_default=True, help="Seconds for a stop.")
@click.option("--unguarded", is_flag=True, help="Let making and deleting servers race too (Triton 2.51 may crash).")
@click.option("--probes/--no-probes", default=True, help="Measure memory, descriptors, threads, ... while running.")
@timeout_option(None, f"{LIMIT:g}, or that much more than --duration")
@triton_option
@json_option
@run_options
def command(**options: Any) -> None:
    """Runs many servers in one process, truly at once, and looks for races, leaks and mixing."""
    loops = click.get_current_context().get_parameter_source("loops")
    if options["duration"] and loops is not click.core.ParameterSource.DEFAULT:
        raise UsageError("-l and --duration: give one of them, a number of loops or a time")
    own = {name: options.pop(name) for name in ("json_file", "runs", "quiet", "in_process")}
    run_and_report("scenarios.multiserver:build", complete(options), own)


def complete(options: dict[str, Any]) -> dict[str, Any]:
    """The options, checked and in plain units."""
    full = {**options, "shm_prefix": f"tritoncapi_{os.getpid()}_{uuid.uuid4().hex[:8]}_"}
    full["duration"] = seconds(options["duration"]) if options["duration"] else None
    if options["timeout"] is None:
        full["timeout"] = LIMIT + (full["duration"] or 0)
    elif options["timeout"] <= (full["duration"] or 0):
        raise UsageError(f"--timeout {options['timeout']:g} would end the run before --duration {options['duration']}")
    full["stagger"] = seconds(options["stagger"]) if options["stagger"] not in ("0", "0s") else 0.0
    full["churn"] = seconds(options["churn"]) if options["churn"] else 0.0
    if full["churn"] and full["duration"] is None:
        raise UsageError("--churn needs --duration")
    waits = full["stagger"] * (options["threads"] - 1)
    if full["duration"] is not None and waits >= full["duration"]:
        raise UsageError(f"--stagger {options['stagger']}: the last thread would begin after --duration is over")
    if full["duration"] is None and waits * min(options["loops"], ROUNDS) >= full["timeout"]:
        raise UsageError(f"--stagger {options['stagger']}: the waits alone would take longer than --timeout")
    if "" in options["repositories"]:
        raise UsageError("-r is empty")
    repositories = [os.path.abspath(os.path.expanduser(path)) for path in options["repositories"]]
    wanted = options["threads"] + 1
    if repositories and len(repositories) != wanted:
        raise UsageError(f"-r: {wanted} repositories are due for -t {options['threads']}, got {len(repositories)}")
    for path in repositories:
        if os.path.isfile(path):
            raise UsageError(f"-r {path}: this is a file, not a directory")
        if not os.path.isdir(path):
            raise UsageError(f"-r {path}: there is no such directory")
    full["repositories"] = repositories
    if options["triton"]:
        full["triton"] = os.path.abspath(os.path.expanduser(options["triton"]))
    full["fault_thread"] = check_fault(options, bool(repositories))
    return full


def check_fault(options: Mapping[str, Any], own_repositories: bool) -> int | None:
    """The thread that the fault is for, or None for all. Raises UsageError for a fault that would do nothing."""
    fault, thread, backend = options["fault"], options["fault_thread"], options["backend"]
    if fault is None:
        if thread is not None:
            raise UsageError("--fault-thread needs --fault")
        return None
    if thread is not None and thread >= options["threads"]:
        raise UsageError(f"--fault-thread {thread}: the threads are 0 to {options['threads'] - 1}")
    if own_repositories:
        raise UsageError("--fault needs the built-in models; leave out -r")
    if fault == KILL_STUB:
        if backend == "native":
            raise UsageError(f"--fault {KILL_STUB} needs --backend python or mixed: native models have no stub")
        thread = min(1, options["threads"] - 1) if thread is None else thread
        if backend == "mixed" and thread % 2 == 0:
            raise UsageError(f"--fault {KILL_STUB}: with --backend mixed only odd threads have a Python model")
        return int(thread)
    if KILL_STUB in re.split("[:,]", fault):
        raise UsageError(f"--fault {fault}: {KILL_STUB} takes no value and stands alone")
    try:
        names = faults.names(fault)
    except ValueError as error:
        raise UsageError(f"--fault: {error}" + (f" (or {KILL_STUB})" if "unknown" in str(error) else "")) from None
    for name in names:
        if name in UNSEEN:
            other = "matrix" if name == "drop_chunk" else "memalloc"
            raise UsageError(f"--fault {name}: multiserver does not see it; {other} does")
    few = options["duration"] is None and options["loops"] < FEWEST_LOOPS
    if "leak_" in fault and (few or not options["probes"]):
        raise UsageError(f"--fault {fault}: a leak is judged from -l {FEWEST_LOOPS} on, and with probes")
    if "leak_gpu" in fault and options["memory"] == "system":
        raise UsageError(f"--fault {fault} needs -m gpu")
    if backend == "python" or (backend == "mixed" and thread is not None and thread % 2):
        raise UsageError(f"--fault {fault} needs a native model: only the test backend can plant it")
    return int(thread) if thread is not None else None


def summary(run: Run) -> Iterator[str]:
    """A few lines on what was done."""
    from ._multiserver_checks import figures  # noqa: PLC0415

    found = figures(run)
    if not found["cycles"]:
        return
    yield (
        f"{found['cycles']} life cycles on {run.options['threads']} threads in {found['seconds']:.2f} s "
        f"({found['cycles'] / found['seconds']:.0f}/s), {found['requests']} requests"
    )
    yield f"servers alive at once: peak {found['peak']}, mean {found['mean']:.1f}"


def cases() -> Iterator[Case]:
    """Short runs on each kind of model and memory."""
    few = ("multiserver", "-t", "4", "-l", "10")
    yield Case("native", few)
    yield Case("mixed", ("multiserver", "-t", "2", "-l", "2", "--backend", "mixed", "--no-probes"))
    yield Case("native-pinned", (*few, "-m", "pinned"), gpus=1)
    yield Case("native-gpu", (*few, "-m", "gpu"), gpus=1)


def main() -> None:
    """The installed script ``multiserver``."""
    group = LazyGroup(name="tritoncapi-harness")
    group.main(["multiserver", *sys.argv[1:]], prog_name="tritoncapi-harness")
