"""Cases: runs of a scenario that stand by themselves, as plain data, for whoever runs many of them.

A scenario's module lists its own: ``def cases() -> Iterable[Case]``. The pytest plugin makes a test of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .verdict import Check


def no_excuse(_checks: Sequence[Check]) -> str:
    """Every failure is one."""
    return ""


@dataclass(frozen=True)
class Case:
    """One run: ``words`` are what stands behind ``tritoncapi-harness`` on a command line that takes ``--json``."""

    name: str
    words: tuple[str, ...]
    gpus: int = 0
    """How many GPUs it needs; a machine with fewer leaves it out, and says so."""
    defect: str = ""
    """Why it is known to fail, always: a pass would be the surprise."""
    excuse: Callable[[Sequence[Check]], str] = no_excuse
    """Why a failure with these checks is no surprise, though it comes only now and then; or nothing."""
