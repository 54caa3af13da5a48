"""report: saved runs as an HTML page, JUnit XML, or JSON."""

from __future__ import annotations

from pathlib import Path

import click

from . import runner
from .command import shown
from .options import json_option
from .outputs import Outputs
from .verdict import ExitCode

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--html", "html_file", metavar="FILE", type=_FILE, help="Write one HTML page.")
@click.option("--junit", "junit_file", metavar="FILE", type=_FILE, help="Write JUnit XML.")
@json_option
def command(runs: tuple[Path, ...], html_file: Path | None, junit_file: Path | None, json_file: Path | None) -> None:
    """Judges saved runs again and writes them down; without an option as a page, RUN/report.html (of the first).

    The exit code says whether that was done; the verdicts are in what is written, and recheck exits with one.
    """
    outputs = Outputs(json_file, html_file, junit_file, whole=True)
    if not outputs.any:
        outputs = Outputs(html=runs[0] / "report.html")
    if runs[0].is_dir() or html_file or junit_file or json_file:
        outputs.check()
    results = [runner.judge(run) for run in dict.fromkeys(runs)]
    problems = outputs.write(results)
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        raise SystemExit(ExitCode.LACKS)
    for path in (outputs.html, outputs.junit, outputs.json):
        if path is not None and not outputs.on_stdout:
            click.echo(shown(path))
