"""The result of a command as a JSON file, and other files that a command is asked to write."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import LacksError, UsageError


def check_writable(path: Path | None, option: str = "--json") -> None:
    """Raises UsageError now rather than after the measurement; a file that was not there is not left behind."""
    if path is None or str(path) == "-":
        return
    new = not os.path.lexists(path)
    try:
        with path.open("a"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written: {error.strerror}") from error


def json_text(result: Mapping[str, Any]) -> str:
    """The result as JSON; numbers that JSON does not have (infinity) become null."""
    try:
        return json.dumps(result, indent=2, default=str, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(jsonable(result), indent=2) + "\n"


def jsonable(value: Any) -> Any:
    """The value as JSON has it: what is not finite becomes null, what JSON does not know its text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(inner) for inner in value]
    return str(value)


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the result; ``-`` is standard output. Raises LacksError."""
    write_text(path, json_text(result))


def write_text(path: Path, text: str, option: str = "--json") -> None:
    """Writes a text; ``-`` is standard output. Raises LacksError."""
    if str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise LacksError(f"{option} {path}: {error.strerror}; the result is lost there") from error
