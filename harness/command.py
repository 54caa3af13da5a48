"""What every command that runs a scenario does: a folder, progress, the checks, one verdict line, the exit code."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from . import child, runner
from .errors import LacksError, UsageError
from .scenario import Run
from .verdict import Check, ExitCode, Verdict, exit_code

RUNS = "TRITONCAPI_RUNS"
Summary = Callable[[Run], Iterable[str]]


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--runs``, ``--quiet``, ``--in-process``."""
    for decorate in (
        click.option("--in-process", is_flag=True, help="No child process, for debuggers: a crash is then yours."),
        click.option("-q", "--quiet", is_flag=True, help="Only the verdict line."),
        click.option(
            "--runs",
            metavar="DIR",
            envvar=RUNS,
            default="runs",
            show_default=True,
            type=click.Path(file_okay=False, path_type=Path),
            help=f"Where runs are kept (${RUNS}).",
        ),
    ):
        command = decorate(command)
    return command


def run_and_report(where: str, options: Mapping[str, Any], own: Mapping[str, Any], summary: Summary) -> None:
    """Runs the scenario, shows and saves the result, and exits with its code."""
    from . import report  # noqa: PLC0415 - rich takes its time; --help does without
    from .progress import Progress  # noqa: PLC0415

    json_file, quiet = own["json_file"], own["quiet"] or str(own["json_file"]) == "-"
    report.check_writable(json_file)
    name = where.partition(":")[0].rpartition(".")[2]
    folder = runner.new_folder(own["runs"], name)
    out = report.console(stderr=True)
    timeout = float(options["timeout"])
    try:
        if own["in_process"]:
            result = runner.run(where, options, folder, timeout=timeout, in_process=True)
        elif quiet:
            result = runner.run(where, options, folder, timeout=timeout)
        else:
            with Progress(folder, out, timeout) as progress:
                result = runner.run(where, options, folder, timeout=timeout, tick=progress.tick)
    except (UsageError, LacksError):
        shutil.rmtree(folder, ignore_errors=True)  # nothing was run
        raise
    except (child.Interrupted, KeyboardInterrupt):
        with suppress(ValueError):  # another Ctrl-C adds nothing; only the main thread may say so
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        line = f"interrupted; what was measured is in {shown(folder)}"
        report.console().print(report.verdict_line(name, Verdict.UNKNOWN, line))
        raise SystemExit(ExitCode.UNKNOWN) from None
    finish(result, json_file, quiet, summary)


def finish(result: runner.Result, json_file: Path | None, quiet: bool, summary: Summary = lambda _run: ()) -> None:
    """Shows and saves a judged run and exits with its code."""
    from . import report  # noqa: PLC0415

    if json_file is not None:
        report.write_json(json_file, result.as_json())
    if str(json_file) != "-":
        out = report.console()
        if not quiet:
            for line in summary(result.run):
                out.print(line, markup=False)
            report.print_checks(out, result.checks)
            report.print_stacks(out, result.run.ended, result.verdict)
        out.print(report.verdict_line(result.name, result.verdict, sentence(result.checks, result.verdict)))
        if not quiet:
            out.print(f"kept in {shown(result.folder)}", style="dim", markup=False)
    raise SystemExit(exit_code(result.verdict))


def sentence(checks: list[Check], verdict: Verdict) -> str:
    """Why: the first check of the verdict's kind; a pass names how many checks it rests on."""
    if verdict == Verdict.PASS:
        return f"{sum(check.verdict == Verdict.PASS for check in checks)} checks passed"
    first = next((check for check in checks if check.verdict == verdict), None)
    return " ".join(f"{first.name}: {first.sentence}".split()) if first else "nothing was checked"


def shown(folder: Path) -> str:
    """The folder as a person would write it."""
    relative = os.path.relpath(folder)
    return relative if not relative.startswith("..") else str(folder)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it as JSON."
)
def recheck(run: Path, json_file: Path | None) -> None:
    """Judges a saved run again, with the checks as they are now."""
    from . import report  # noqa: PLC0415

    report.check_writable(json_file)
    finish(runner.judge(run), json_file, quiet=False)
