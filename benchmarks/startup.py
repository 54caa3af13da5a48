"""What a command costs before it does anything: whole processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .pairs import Measure, compare

SCRIPT = str(Path(sys.executable).parent / "tritoncapi-harness")


def wall(command: Sequence[str]) -> Measure:
    """Milliseconds of wall time of a whole process."""

    def measure() -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return (time.perf_counter() - began) * 1000

    return measure


def main() -> None:
    """``--help`` against a bare interpreter, and memalloc against both."""
    bare = ("python -c pass", wall([sys.executable, "-c", "pass"]))
    compare("start-up: help", "ms", bare, ("tritoncapi-harness --help", wall([SCRIPT, "--help"])))
    numpy = ("python -c 'import numpy'", wall([sys.executable, "-c", "import numpy"]))
    with tempfile.TemporaryDirectory() as runs:
        memalloc = ("tritoncapi-harness memalloc", wall([SCRIPT, "memalloc", "--runs", runs]))
        compare("start-up: memalloc (native, CPU)", "ms", numpy, memalloc)
