"""What every command that runs a scenario does: a folder, progress, the checks, one verdict line, the exit code."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from . import child, runner
from .errors import LacksError, UsageError
from .options import json_option
from .outputs import Outputs
from .verdict import ExitCode, Verdict, exit_code

RUNS = "TRITONCAPI_RUNS"


def _not_empty(_context: click.Context, _option: click.Parameter, value: Path) -> Path:
    if str(value) == ".":  # what an empty path becomes, by an unset variable mostly
        raise click.BadParameter("it is empty, or the current directory: name a folder for the runs")
    return value


def _keep(context: click.Context, option: click.Parameter, value: Path | None) -> None:
    context.meta[f"{__name__}.{option.name}"] = value


def _kept(name: str) -> Path | None:
    context = click.get_current_context(silent=True)
    path = context.meta.get(f"{__name__}.{name}") if context is not None else None
    return path if isinstance(path, Path) else None


def report_option(name: str, what: str) -> Callable[..., Any]:
    """``--html``, ``--junit``. Not handed to the command: a scenario's options are what is left of a command's."""
    return click.option(
        f"--{name}",
        f"{name}_file",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_keep,
        help=f"Write the run as {what}.",
    )


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--runs``, ``--quiet``, ``--in-process``, ``--html``, ``--junit``."""
    for decorate in (
        report_option("junit", "JUnit XML"),
        report_option("html", "one HTML page"),
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
    outputs = Outputs(own["json_file"], _kept("html_file"), _kept("junit_file"))
    quiet = own["quiet"] or outputs.on_stdout
    outputs.check()
    with _signals() as hold:
        _run(where, options, own, outputs, quiet, then, hold)


@contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """Yields what to call when the run is over: what is left to do is short, and a signal would lose the verdict."""
    before: dict[int, Any] = {}

    def hold() -> None:
        with suppress(ValueError):  # only the main thread may
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                before[number] = signal.signal(number, signal.SIG_IGN)

    try:
        yield hold
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _run(
    where: str,
    options: Mapping[str, Any],
    own: Mapping[str, Any],
    outputs: Outputs,
    quiet: bool,
    then: Callable[[runner.Result], None],
    hold: Callable[[], None],
) -> NoReturn:
    from .progress import Progress  # noqa: PLC0415

    name = where.partition(":")[0].rpartition(".")[2]
    folder = runner.new_folder(own["runs"], name)
    timeout = float(options["timeout"])
    try:
        if own["in_process"]:
            result = runner.run(where, options, folder, timeout=timeout, in_process=True, over=hold)
        elif quiet:
            result = runner.run(where, options, folder, timeout=timeout, over=hold)
        else:
            with Progress(folder, timeout) as progress:
                result = runner.run(where, options, folder, timeout=timeout, tick=progress.tick, over=hold)
    except (UsageError, LacksError):
        shutil.rmtree(folder, ignore_errors=True)  # nothing was run
        raise
    except (child.Interrupted, KeyboardInterrupt):
        hold()  # another Ctrl-C adds nothing
        _interrupted(name, folder, outputs)
    then(result)
    finish(result, outputs, quiet)


def _interrupted(name: str, folder: Path, outputs: Outputs) -> NoReturn:
    """Says so; what was measured until then is judged for the files that were asked for."""
    from . import report  # noqa: PLC0415

    line = f"interrupted; what was measured is in {shown(folder)}"
    began = (folder / runner.RUN).exists()
    if not began:
        shutil.rmtree(folder, ignore_errors=True)
        line = "interrupted before the run began"
    report.console(stderr=outputs.on_stdout).print(report.verdict_line(name, Verdict.UNKNOWN, line))
    if began and outputs.any:
        _write(outputs, runner.judge(folder))
    raise SystemExit(ExitCode.UNKNOWN) from None


def finish(result: runner.Result, outputs: Outputs, quiet: bool) -> NoReturn:
    """Shows and saves a judged run and exits with its code; a file that cannot be written is no pass."""
    broken: OSError | SystemExit | None = None
    try:
        if not outputs.on_stdout:
            show(result, quiet)
        sys.stdout.flush()
    except (OSError, SystemExit) as error:  # no room, or the reader is gone: the files are written all the same
        broken = error
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    whole = _write(outputs, result)
    code = exit_code(result.verdict)
    if broken is not None and (code == ExitCode.PASS or isinstance(broken, SystemExit)):
        raise broken
    raise SystemExit(code if whole or code != ExitCode.PASS else ExitCode.LACKS)


def _write(outputs: Outputs, result: runner.Result) -> bool:
    sys.stdout.flush()
    problems = outputs.write([result])
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    return not problems


def show(result: runner.Result, quiet: bool) -> None:
    """Prints the result: the scenario's summary, the checks, what explains them, the verdict and the run's folder."""
    from . import report  # noqa: PLC0415 - rich takes its time; --help does without

    out = report.console()
    scenario, run, verdict = result.scenario, result.run, result.verdict
    if not quiet:
        _print_lines(out, lambda: scenario.summary(run))
        report.print_checks(out, result.checks)
        report.print_stacks(out, run.ended, verdict, all_lines=bool(run.options.get("verbose")))
        _print_lines(out, lambda: scenario.appendix(run, verdict))
    out.print(report.verdict_line(scenario.name, verdict, result.sentence))
    if not quiet:
        out.print(f"kept in {shown(result.folder)}", style="dim", markup=False)


def _print_lines(out: Any, lines: Callable[[], Iterable[Any]]) -> None:
    try:
        for line in lines():
            out.print(line, markup=False)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # a history that was edited
        out.print(f"(more cannot be shown of this run: {type(error).__name__}: {error})", markup=False)


def shown(folder: Path) -> str:
    """The folder as a person would write it."""
    relative = os.path.relpath(folder)
    return relative if not relative.startswith("..") else str(folder)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Only the verdict line.")
@json_option
def recheck(run: Path, quiet: bool, json_file: Path | None) -> None:
    """Judges a saved run again, with the checks as they are now."""
    outputs = Outputs(json_file)
    outputs.check()
    finish(runner.judge(run), outputs, quiet)
