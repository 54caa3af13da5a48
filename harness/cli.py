"""``tritoncapi-harness``: one group, whose commands are imported only when they run."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any, NamedTuple

import click

from .errors import LacksError, UsageError
from .verdict import ExitCode


class Entry(NamedTuple):
    """A command: where it is, its line, and for a scenario what it needs."""

    where: str
    line: str
    needs: str = ""


COMMANDS = {
    "info": Entry("scenarios.info:command", "Which Triton would run, and what this machine offers it."),
    "list": Entry("harness.listing:command", "The scenarios, and what each needs."),
    "memalloc": Entry(
        "scenarios.memalloc_command:command",
        "Proves where inputs are taken from and outputs are put.",
        "a Triton; for gpu:N and pinned a GPU; for --backend python its Python backend and 16 MiB of /dev/shm",
    ),
    "matrix": Entry(
        "scenarios.matrix_command:command",
        "Every placement with every model, datatype, host policy and size, checked.",
        "a Triton; pinned and GPU places need a GPU, Python rows its Python backend; what is missing is left out",
    ),
    "multiserver": Entry(
        "scenarios.multiserver:command",
        "Many servers in one process at once: races, leaks, mixing.",
        "a Triton; for -m gpu and -m pinned a GPU; for --backend python or mixed its Python backend and 16 MiB of "
        "/dev/shm for each thread and model",
    ),
    "perf": Entry(
        "scenarios.perf_command:command",
        "Throughput and latency over the C API, HTTP and gRPC; regressions.",
        "a Triton; for --protocol http and grpc its tritonserver program and tritonclient; for gpu:N and pinned a GPU",
    ),
    "recheck": Entry("harness.command:recheck", "Judges a saved run again."),
    "report": Entry("harness.report_command:command", "Writes saved runs as an HTML page, JUnit XML, or JSON."),
    "diff": Entry("harness.diff_command:command", "What changed from one saved run to another."),
    "demo": Entry("scenarios.demo:command", "Runs memalloc in every form that this machine can run."),
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
        module, _, name = COMMANDS[cmd_name].where.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.line) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; Ctrl-C where nothing else deals with it leaves nothing known."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise SystemExit(ExitCode.UNKNOWN) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command; the two errors that end a run before it began become one line and their exit code."""
        for name in ("stdout", "stderr"):  # closed, as some daemons have them
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
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
