"""perf's command line; apart from the scenario, so that its child does without click."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from harness import runner
from harness.command import run_and_report, run_options, shown
from harness.errors import UsageError
from harness.journal import all_of, last
from harness.json_file import check_writable
from harness.options import Share, json_option, timeout_option, triton_option
from harness.verdict import Verdict

from . import _perf_plan as plan
from .memalloc_command import PlaceType

_METRICS = ("throughput", "p50", "p95")
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("-m", "--model", "models", multiple=True, metavar="NAME[:WEIGHT]", help="Several share the requests.")
@click.option("-r", "--repository", metavar="DIR", help="A repository of your own; else add_sub, a model of ours.")
@click.option("--concurrency", metavar="RANGE", help="Requests always out: 4, 1,2,8, 1:8, 1:16:x2 [1].")
@click.option("--rate", metavar="RANGE", help="Requests a second instead, whatever comes back: 1000, 1000:5000:1000.")
@click.option("--poisson", is_flag=True, help="With --rate: at random times.")
@click.option(
    "--in-flight", type=click.IntRange(1, plan.MOST_IN_FLIGHT), help=f"With --rate: out at most [{plan.IN_FLIGHT}]."
)
@click.option("--protocol", type=click.Choice(["c-api", "http", "grpc"]), default="c-api", show_default=True)
@click.option("--duration", metavar="TIME", help="Measure each step this long, not until it is stable.")
@click.option("--requests", type=click.IntRange(1), help="... this many requests.")
@click.option("--warmup", metavar="TIME", default="500ms", show_default=True, help="Before each step.")
@click.option("--window", metavar="TIME", help="Length of a window [1s, or a fifth of --duration].")
@click.option("--windows", type=click.IntRange(3), default=10, show_default=True, help="At most, until stable.")
@click.option("--stability", type=click.FloatRange(0.1, 100), default=10, show_default=True, help="Percent.")
@click.option("--require-stable", is_flag=True, help="An unstable step makes the verdict unknown.")
@click.option("--threads", type=click.IntRange(1, 64), help="Native threads, or client processes for http and grpc.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME:1x16", help="Of an input, without the batch.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch size of each request.")
@click.option("--input-data", metavar="FILE", help="Inputs from an .npz or a .json file.")
@click.option("--zero", is_flag=True, help="Zeros instead of random values.")
@click.option("-i", "--input", "input_", type=PlaceType(), default="cpu", help="Where inputs are (c-api).")
@click.option("-o", "--output", type=PlaceType("preferred"), default="cpu", help="Where outputs are put (c-api).")
@click.option("--sequence-length", type=click.IntRange(0), default=0, help="Requests of each sequence.")
@click.option("--priority", type=click.IntRange(0), default=0, help="Of each request; 1 is the highest.")
@click.option("--request-timeout", metavar="TIME", help="That a request may wait in Triton's queue.")
@click.option("--cancel-rate", type=Share(), default=0.0, help="Share that is cancelled at once.")
@click.option("--max-error-rate", type=Share(), default=0.0, help="Share that may fail [0].")
@click.option("--validate", is_flag=True, help="Own models: the same inputs must give the same outputs.")
@click.option("--validate-every", type=click.IntRange(1), default=100, show_default=True, help="Look at every k-th.")
@click.option("--save", metavar="NAME", help="Keep the figures as a baseline.")
@click.option("--compare", metavar="NAME", help="Hold the figures against a baseline.")
@click.option("--baselines", metavar="DIR", type=_FOLDER, help="Where they are [RUNS/baselines].")
@click.option("--allow", type=click.FloatRange(0, 1000), default=10, show_default=True, help="Percent that may go.")
@click.option("--metric", "metrics", type=click.Choice(_METRICS), multiple=True, help="Judged [throughput and p95].")
@click.option("--force", is_flag=True, help="Compare across different machines or models.")
@click.option("--ab", metavar="TRITON", help="Side B is this Triton; the sides take turns.")
@click.option("--ab-model", metavar="NAME", help="Side B is this model; the sides take turns.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=8, show_default=True, help="Of A and B.")
@click.option("--peer", type=click.Choice(["perf_analyzer"]), help="Run it too, on the same model.")
@click.option("--csv", "csv_file", metavar="FILE", type=_FILE, help="The table, in perf_analyzer's columns.")
@click.option("--instances", type=click.IntRange(1, 64), default=1, show_default=True, help="Of our own models.")
@click.option("--fault", metavar="NAME[:VALUE]", help="Plant a fault in our own model (of side B): slow:MS, ...")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random arrivals and choices.")
@click.option("--patience", metavar="TIME", default="30s", show_default=True, help="For one answer.")
@click.option("-v", "--verbose", is_flag=True, help="Verbose Triton log, shown at the end.")
@timeout_option(None, "what the steps may take, and two minutes")
@triton_option
@json_option
@run_options
def command(input_: str, csv_file: Path | None, save: str | None, baselines: Path | None, **options: Any) -> None:
    """Measures how fast models answer, and says whether they have become slower.

    Without --duration and --requests each step is measured until the last three windows agree.
    """
    own = {name: options.pop(name) for name in ("json_file", "runs", "quiet", "in_process")}
    from . import _perf_options  # noqa: PLC0415

    folder = baselines or own["runs"] / "baselines"
    full = _perf_options.complete({"input": input_, **options}, folder)
    target = None
    if save is not None:
        from . import _perf_baseline  # noqa: PLC0415 - NumPy

        if full["two_sides"]:
            raise UsageError("--save keeps one side; leave out --ab and --ab-model")
        target = _perf_baseline.path_of(folder, save)
    if str(csv_file) == "-":
        raise UsageError("--csv -: the table goes to a file; name one")
    check_writable(csv_file, "--csv")

    def then(result: runner.Result) -> None:
        if csv_file is not None:
            from . import _perf_table  # noqa: PLC0415

            _perf_table.write_csv(csv_file, result.run)
        if target is not None and save is not None:
            _save(target, save, result)

    run_and_report("scenarios.perf:build", full, own, then)


def _save(target: Path, name: str, result: runner.Result) -> None:
    """Keeps the figures, unless something was wrong with them; a regression is not."""
    from . import _perf_baseline  # noqa: PLC0415

    events = result.run.ended.events
    found = all_of(events, "step")
    bad = next((c for c in result.checks if c.verdict == Verdict.FAIL and not c.name.startswith("regression")), None)
    if bad is not None or not found:
        click.echo(f"not saved as {name}: {bad.name if bad else 'nothing was measured'}", err=True)
        return
    command_line = shlex.join(["tritoncapi-harness", *sys.argv[1:]])
    baseline = _perf_baseline.make(
        name, result.run.options, found, all_of(events, "model"), last(events, "library"), command_line
    )
    _perf_baseline.save(target, baseline)
    click.echo(f"saved as {name} in {shown(target)}", err=True)


