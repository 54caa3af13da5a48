"""Text and values from anywhere (logs, evidence, crashed processes) made fit to be shown and to be written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ..json_file import jsonable

# What XML 1.0 forbids and HTML calls an error; DEL and the C1 controls, which nobody can see; and what turns the
# direction of the text around it, which makes a line say something else than it does.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0d\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_PICTURES = 0x2400  # Unicode's pictures of the control characters below 32
_LOST = "\ufffd"


def visible(text: Any) -> str:
    """The text with a picture in the place of each control character: no terminal's colours, no invalid XML."""
    return _CONTROLS.sub(_picture, str(text).replace("\r\n", "\n"))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(_PICTURES + code) if code < 32 else "\u2421" if code == 127 else _LOST


def shortened(text: str, most: int) -> str:
    """The text, or its first ``most`` characters and how many more there were."""
    return text if len(text) <= most else f"{text[:most]}\u2026 ({len(text) - most:,} more characters)"


def pretty(value: Any, most: int = 4000) -> str:
    """A piece of evidence for people: text as it is, a list of texts line by line, all else as JSON."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, (list, tuple)) and value and all(isinstance(line, str) for line in value):
        text = "\n".join(value)
    elif isinstance(value, (Mapping, list, tuple)):
        text = json.dumps(jsonable(value), ensure_ascii=False, default=str)
        if len(text) > 100:
            text = json.dumps(jsonable(value), ensure_ascii=False, indent=1, default=str)
    else:
        text = "-" if value is None else str(value)
    return visible(shortened(text, most))


def number(value: Any) -> float | None:
    """A finite number, or None; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def text_of(value: Any) -> str:
    """The value if it is text, else nothing."""
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def rows(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return list(value) if isinstance(value, (list, tuple)) else []
