"""list: the scenarios, and what each needs."""

from __future__ import annotations

from pathlib import Path

import click

from .cli import COMMANDS
from .json_file import check_writable, write_json
from .options import json_option
from .verdict import ExitCode


@click.command()
@json_option
def command(json_file: Path | None) -> None:
    """Shows the scenarios, a line each, and what each needs."""
    check_writable(json_file)
    scenarios = [(name, entry) for name, entry in COMMANDS.items() if entry.needs]
    if json_file is not None:
        rows = [{"name": name, "line": entry.line, "needs": entry.needs} for name, entry in scenarios]
        write_json(json_file, {"scenarios": rows, "exit_code": int(ExitCode.PASS)})
    if str(json_file) != "-":
        for name, entry in scenarios:
            click.echo(f"{name:<12}  {entry.line}\n{'':<12}  needs {entry.needs}")
