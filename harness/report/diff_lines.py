"""A difference between two runs for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.text import Text

from ..leaks import amount
from .diff import Difference, Figure
from .plain import pretty, shortened, visible
from .terminal import console, table


def show(found: Difference, most: int | None) -> None:
    """Prints what differs: verdicts, figures (``most`` of them), what was run, and one line at the end."""
    out = console()
    for line in lines(found, most):
        out.print(line, markup=False)
    sys.stdout.flush()


def lines(found: Difference, most: int | None) -> Iterator[Text | str]:
    """The lines."""
    if found.verdicts:
        rows = [
            [
                change.kind,
                visible(change.name),
                change.a,
                change.b,
                "worse" if change.worse else "",
                _short(change.sentence),
            ]
            for change in sorted(found.verdicts, key=lambda change: not change.worse)
        ]
        yield from table(["verdict of", "name", "A", "B", "", "why (B)"], rows)
        yield ""
    shown = found.figures[:most]
    if shown:
        rows = [[visible(f.name), _value(f, f.a), _value(f, f.b), _change(f)] for f in shown]
        yield from table(["figure", "A", "B", "change"], rows)
        if len(shown) < len(found.figures):
            yield Text(f"... {len(found.figures) - len(shown)} more with --all", style="dim")
        yield ""
    if found.described:
        rows = [[visible(name), _short(pretty(a)), _short(pretty(b))] for name, a, b in found.described]
        yield from table(["what was run", "A", "B"], rows)
        yield ""
    worse = len(found.worse)
    changed = f"{len(found.verdicts)} verdict{'' if len(found.verdicts) == 1 else 's'} changed"
    figures = f"{len(found.figures)} of {len(found.figures) + found.same_figures} figures differ"
    yield Text(
        f"{found.scenario}: {changed}, {worse or 'none'} for the worse; {figures}", style="bold red" if worse else ""
    )


def _short(text: str) -> str:
    return shortened(" ".join(visible(text).split()), 100)


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return "-"
    name, _, what = figure.name.rpartition(" ")
    return amount(name if what in ("first", "last", "max", "slope") else figure.name, value)


def _change(figure: Figure) -> str:
    if figure.change is None:
        return "new" if figure.a is None else "gone" if figure.b is None else "from 0"
    return f"{100 * figure.change:+.3g} %"
