"""What every command that runs a scenario does: a folder, progress, the checks, one verdict line, the exit code."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from . import child, runner
from .errors import LacksError, UsageError
from .json_file import check_writable, write_json
from .verdict import ExitCode, Verdict, exit_code

RUNS = "TRITONCAPI_RUNS"


def _not_empty(_context: click.Context, _option: click.Parameter, value: Path) -> Path:
    if str(value) == ".":  # what an empty path becomes, by an unset variable mostly
        raise click.BadParameter("it is empty, or the current directory: name a folder for the runs")
    return value


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
            callback=_not_empty,
            help=f"Where runs are kept (${RUNS}).",
        ),
    ):
        command = decorate(command)
    return command


def run_and_report(
    where: str,
    options: Mapping[str, Any],
    own: Mapping[str, Any],
    then: Callable[[runner.Result], None] = lambda _result: None,
) -> None:
    """Runs the scenario, shows and saves the result, and exits with its code. ``then`` keeps more of the result."""
    from .progress import Progress  # noqa: PLC0415

    json_file, quiet = own["json_file"], own["quiet"] or str(own["json_file"]) == "-"
    check_writable(json_file)
    name = where.partition(":")[0].rpartition(".")[2]
    folder = runner.new_folder(own["runs"], name)
    timeout = float(options["timeout"])
    try:
        if own["in_process"]:
            result = runner.run(where, options, folder, timeout=timeout, in_process=True)
        elif quiet:
            result = runner.run(where, options, folder, timeout=timeout)
        else:
            with Progress(folder, timeout) as progress:
                result = runner.run(where, options, folder, timeout=timeout, tick=progress.tick)
    except (UsageError, LacksError):
        shutil.rmtree(folder, ignore_errors=True)  # nothing was run
        raise
    except (child.Interrupted, KeyboardInterrupt):
        with suppress(ValueError):  # another Ctrl-C adds nothing; only the main thread may say so
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        from . import report  # noqa: PLC0415

        line = f"interrupted; what was measured is in {shown(folder)}"
        if not (folder / runner.RUN).exists():
            shutil.rmtree(folder, ignore_errors=True)
            line = "interrupted before the run began"
        report.console().print(report.verdict_line(name, Verdict.UNKNOWN, line))
        raise SystemExit(ExitCode.UNKNOWN) from None
    then(result)
    finish(result, json_file, quiet)


def finish(result: runner.Result, json_file: Path | None, quiet: bool) -> None:
    """Shows and saves a judged run and exits with its code."""
    if json_file is not None:
        write_json(json_file, result.as_json())
    if str(json_file) != "-":
        show(result, quiet)
    raise SystemExit(exit_code(result.verdict))


def show(result: runner.Result, quiet: bool) -> None:
    """Prints the result: the scenario's summary, the checks, what explains them, the verdict and the run's folder."""
    from . import report  # noqa: PLC0415 - rich takes its time; --help does without

    out = report.console()
    scenario, run, verdict = result.scenario, result.run, result.verdict
    if not quiet:
        for line in scenario.summary(run):
            out.print(line, markup=False)
        report.print_checks(out, result.checks)
        report.print_stacks(out, run.ended, verdict, all_lines=bool(run.options.get("verbose")))
        for line in scenario.appendix(run, verdict):
            out.print(line, markup=False)
    out.print(report.verdict_line(scenario.name, verdict, result.sentence))
    if not quiet:
        out.print(f"kept in {shown(result.folder)}", style="dim", markup=False)


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
    check_writable(json_file)
    finish(runner.judge(run), json_file, quiet=False)
