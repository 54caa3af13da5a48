"""The result of a command as a JSON file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import LacksError, UsageError


def check_writable(path: Path | None, option: str = "--json") -> None:
    """Raises UsageError now rather than after the measurement."""
    if path is None or str(path) == "-":
        return
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written: {error.strerror}") from error


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the result; ``-`` is standard output."""
    text = json.dumps(result, indent=2, default=str) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise LacksError(f"--json {path}: {error.strerror}; the result is lost there") from error
