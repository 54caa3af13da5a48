"""``tritoncapi-harness``: one group, whose commands are imported only when they run."""

from __future__ import annotations

import errno
import importlib
import os
from typing import Any

import click

from .errors import LacksError, UsageError
from .verdict import ExitCode

# name -> where the command is, and its line in --help
COMMANDS = {
    "info": ("scenarios.info:command", "Which Triton would run, and what this machine offers it."),
    "memalloc": ("scenarios.memalloc:command", "Proves where inputs are taken from and outputs are put."),
    "multiserver": ("scenarios.multiserver:command", "Many servers in one process at once: races, leaks, mixing."),
    "recheck": ("harness.command:recheck", "Judges a saved run again."),
    "demo": ("scenarios.demo:command", "Runs memalloc in every form that this machine can run."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command; the two errors that end a run before it began become one line and their exit code."""
        try:
            return super().main(*args, **kwargs)
        except UsageError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(ExitCode.USAGE) from None
        except LacksError as error:
            click.echo(f"This machine cannot run it: {error}", err=True)
            raise SystemExit(ExitCode.LACKS) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has no place either
            click.echo(f"This machine cannot run it: the output cannot be written: {error.strerror}", err=True)
            raise SystemExit(ExitCode.LACKS) from None


@click.group(cls=LazyGroup)
@click.version_option(package_name="tritoncapi-harness")
def main() -> None:
    """Runs a real NVIDIA Triton inside the process, through its C API, and proves what it does.

    Exit codes: 0 pass, 1 fail, 2 usage, 3 unknown, 4 the machine lacks what the run needs.
    """
