"""Known failures: what Triton is known to get wrong, as data. A cell that fails as known does not fail the matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ._matrix_axes import Cell, Filter, read_filter

_SOME_BYTES = "size=16,1MiB,64MiB,odd"


@dataclass(frozen=True)
class Known:
    """A failure of Triton's. ``since`` and ``until`` are versions in which it was seen; None: no bound is known.

    ``check`` is what must fail: another failure of such a cell is none that is known.
    """

    name: str
    cells: Filter
    check: str
    evidence: str
    since: tuple[int, int] | None = None
    until: tuple[int, int] | None = None

    def holds(self, cell: Cell, version: tuple[int, int]) -> bool:
        """Whether the cell is expected to fail with this Triton."""
        if (self.since and version < self.since) or (self.until and version > self.until):
            return False
        return self.cells.matches(cell)


KNOWN: Sequence[Known] = (
    Known(
        "python-host-policy",
        read_filter(f"backend=python,dlpack,policy=right,{_SOME_BYTES}"),
        "values",
        "the Python backend asks for inputs without a host policy, so data given under its instance's is not read",
    ),
    Known(
        "python-gpu-to-pinned",
        read_filter(f"backend=dlpack,ensemble=no,out=pinned,{_SOME_BYTES}"),
        "values",
        "a GPU tensor that a Python model gives for an output in pinned memory is never copied there, without an error",
        since=(2, 51),
        until=(2, 51),
    ),
)


def known_for(cell: Cell, version: tuple[int, int], table: Sequence[Known] = KNOWN) -> Known | None:
    """The first known failure that the cell is expected to show."""
    return next((row for row in table if row.holds(cell, version)), None)


def version_of(text: str) -> tuple[int, int]:
    """``2.51.0`` as (2, 51); (0, 0) for what is no version."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
