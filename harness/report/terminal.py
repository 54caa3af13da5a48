"""What a person sees of a run: tables, checks, one verdict line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from ..child import Ended
from ..verdict import Check, Verdict

_STACK_LINES = 30
_STYLE = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.UNKNOWN: "yellow", Verdict.SKIPPED: "dim"}
_WORD = {Verdict.PASS: "ok", Verdict.FAIL: "FAIL", Verdict.UNKNOWN: "?", Verdict.SKIPPED: "-"}


def console(*, stderr: bool = False) -> Console:
    """A console that does not fold lines when its output is a file or a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    if stream is None:  # it was closed before the command began: nobody wants to read
        stream = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    return PipeConsole(file=stream, soft_wrap=True, highlight=False, width=None if stream.isatty() else 200)


class PipeConsole(Console):
    """A console whose reader may go away: then the command ends as one that SIGPIPE ended, not as a failed check."""

    def on_broken_pipe(self) -> None:
        """Ends the command with 128 + SIGPIPE."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(128 + signal.SIGPIPE) from None


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Text]:
    """The lines of a plain table, the first its head; none ends in spaces."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for number, row in enumerate([columns, *rows]):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield Text("  ".join(cells).rstrip(), style="" if number else "bold")


def print_checks(out: Console, checks: Sequence[Check]) -> None:
    """One line a check: verdict, name, sentence."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        line = Text("  ")
        line.append(f"{_WORD[check.verdict]:<5}", style=_STYLE[check.verdict])
        line.append(f"{check.name:<{width}}  ")
        line.append(check.sentence)
        out.print(line)


def print_stacks(out: Console, ended: Ended, verdict: Verdict, *, all_lines: bool = False) -> None:
    """The stacks of a run that crashed or hung; the first lines, or all."""
    lines = ended.stacks.strip().splitlines()
    if not lines or verdict == Verdict.PASS:
        return
    out.print("\nStacks:", style="bold")
    for line in lines if all_lines else lines[:_STACK_LINES]:
        out.print(f"  {line}".rstrip(), markup=False)
    if len(lines) > _STACK_LINES and not all_lines:
        out.print(f"  ... {len(lines) - _STACK_LINES} more lines with -v or in --json FILE", style="dim")


def verdict_line(name: str, verdict: Verdict, sentence: str) -> Text:
    """``name: PASS - sentence``."""
    line = Text(f"{name}: ")
    line.append(verdict.value.upper(), style=_STYLE[verdict])
    line.append(f" - {sentence}")
    return line
