"""The HTML page: one file without any other, made of saved runs alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..runner import Result
from ..verdict import Verdict
from .document import verdict_of
from .plain import visible
from .view import View

_TEMPLATES = Path(__file__).parent / "templates"
WORDS = {Verdict.PASS: "pass", Verdict.FAIL: "FAIL", Verdict.UNKNOWN: "unknown", Verdict.SKIPPED: "skipped"}


def page(results: Sequence[Result]) -> str:
    """The page of these runs. The same runs give the same page."""
    script, style = ((_TEMPLATES / name).read_text() for name in ("page.js", "style.css"))
    views = [View(number, result) for number, result in enumerate(results)]
    template = _environment().get_template("page.html")
    made = template.render(
        runs=views,
        verdict=verdict_of(results),
        words=WORDS,
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'",
    )
    return made.encode("utf-8", "replace").decode()


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["visible"] = visible
    return made


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
