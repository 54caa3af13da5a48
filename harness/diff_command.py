"""diff: what changed from one saved run to another."""

from __future__ import annotations

from pathlib import Path

import click

from . import runner
from .errors import LacksError, UsageError
from .json_file import check_writable, write_json
from .options import json_option
from .verdict import ExitCode


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Every figure that differs, not the 20 that changed most.")
@json_option
def command(run_a: Path, run_b: Path, everything: bool, json_file: Path | None) -> None:
    """Shows what changed in verdicts and figures from RUN_A to RUN_B, two runs of one scenario.

    Exits with 0 if no verdict got worse, with 1 if one did; what passed and is skipped or gone now is worse. Figures
    are those of one run each, so a change is no proof of anything.
    """
    from .report.diff import diff  # noqa: PLC0415

    check_writable(json_file)
    a, b = runner.judge(run_a), runner.judge(run_b)
    if a.scenario.name != b.scenario.name:
        text = f"{run_a} is a run of {a.scenario.name}, {run_b} one of {b.scenario.name}: give two of one scenario"
        raise UsageError(text)
    found = diff(a, b)
    if str(json_file) != "-":
        from .report.diff_lines import show  # noqa: PLC0415

        show(found, None if everything else 20)
    try:
        if json_file is not None:
            write_json(json_file, found.as_json())
    except LacksError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(found.exit_code or ExitCode.LACKS) from None
    raise SystemExit(found.exit_code)
