"""Reports: pure functions of saved runs. For the terminal here; ``page``, ``junit``, ``document`` and ``diff`` beside.

``harness/report_command.py`` and ``harness/diff_command.py`` are the commands; ``harness/outputs.py`` writes the files.
"""

from __future__ import annotations

from .terminal import PipeConsole, console, print_checks, print_stacks, table, verdict_line

__all__ = ["PipeConsole", "console", "print_checks", "print_stacks", "table", "verdict_line"]
