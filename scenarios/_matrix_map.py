"""What a person sees of the matrix: a heat map, and the failing cells in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.text import Text

from harness.journal import Event, last
from harness.scenario import Line, Run
from harness.verdict import Verdict

from ._matrix_checks import cells_of, figures, reproducer

_SHOWN = 40  # failing cells
# The worst outcome of a square gives its letter and colour.
_MARKS = (
    ("fail", "F", "bold white on red"),
    ("unknown", "?", "black on yellow"),
    ("unexpected_pass", "U", "black on yellow"),
    ("known", "k", "yellow"),
    ("pass", "p", "green"),
)
_LEGEND = "p passed, k failed as known, U passed though known to fail, ? not known, F failed; and how many of its cells"


def summary(run: Run) -> Iterator[Line]:
    """Which Triton, how many cells of which, and the map."""
    events = run.ended.events
    library, plan, done = last(events, "library"), last(events, "plan"), figures(run)
    if library is not None:
        yield Text(f"Triton: {library['why']}", style="dim")
    if plan is not None:
        yield f"{plan['selected']} cells of {plan['possible']} that are possible here"
        for title, counts in (("not possible:", plan["left_out"]), ("not chosen from:", plan["spared"])):
            yield from (f"  {title:<16} {count:>8}  {why}" for why, count in counts.items())
    if done["seconds"]:
        yield (
            f"{done['done']} cells in {done['seconds']:.2f} s ({done['rate']:.0f}/s), "
            f"and {done['loading_seconds']:.2f} s for their models"
        )
    cells = cells_of(run)
    if cells:
        yield ""
        yield from heat_map(cells)
        yield ""


def heat_map(cells: Sequence[Event]) -> Iterator[Text]:
    """Rows: the input's place and the model's device; columns: the output's place."""
    columns = list(dict.fromkeys(sorted((cell["axes"]["out"] for cell in cells), key=_place)))
    rows = sorted({(cell["axes"]["in"], cell["axes"]["model"]) for cell in cells}, key=lambda row: (*map(_place, row),))
    squares: dict[tuple[str, str, str], Counter[str]] = {}
    for cell in cells:
        axes = cell["axes"]
        squares.setdefault((axes["in"], axes["model"], axes["out"]), Counter())[cell["outcome"]] += 1
    heads = ["input on", "model on", *(f"to {column}" for column in columns)]
    body = [[*row, *(_mark(squares.get((*row, column)))[0] for column in columns)] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    yield Text("  ".join(f"{head:<{width}}" for head, width in zip(heads, widths, strict=True)).rstrip(), style="bold")
    for row, texts in zip(rows, body, strict=True):
        line = Text()
        for number, (text, width) in enumerate(zip(texts, widths, strict=True)):
            style = _mark(squares.get((*row, columns[number - 2])))[1] if number > 1 else ""
            line.append(text, style=style)
            line.append(" " * (width - len(text) + 2))
        line.rstrip()
        yield line
    yield Text(_LEGEND, style="dim")


def _mark(outcomes: Counter[str] | None) -> tuple[str, str]:
    """``F 2/9``: two of nine cells failed; only the letter and the number where all are alike."""
    if not outcomes:
        return ".", "dim"
    total = sum(outcomes.values())
    for outcome, letter, style in _MARKS:
        count = outcomes[outcome]
        if count:
            return f"{letter} {count}" + (f"/{total}" if count < total else ""), style
    return f"? {total}", "yellow"


def _place(name: str) -> tuple[int, int, str]:
    kind, _, number = name.partition(":")
    order = ("cpu", "pinned", "gpu", "mixed", "preferred", "different")
    return order.index(kind) if kind in order else len(order), int(number or 0), name


def failures(run: Run, _verdict: Verdict) -> Iterator[Line]:
    """Every cell that failed, or that passed though it was known to fail."""
    cells = [cell for cell in cells_of(run) if cell["outcome"] in ("fail", "unexpected_pass")]
    for cell in cells[:_SHOWN]:
        yield ""
        word = "FAIL" if cell["outcome"] == "fail" else "PASSED, and was expected to fail"
        yield Text(f"{word} {cell['cell']}", style="bold red" if cell["outcome"] == "fail" else "yellow")
        for text in dict.fromkeys([text for _, text in cell["problems"]] or [cell["evidence"]]):
            yield f"  {text}"
        for tensor in cell["tensors"]:
            places = (f"{key} {tensor[key]}" for key in ("asked", "preferred", "actual", "reported") if key in tensor)
            yield f"  {tensor['name']}: {tensor['nbytes']} bytes, {', '.join(places)}"
        yield f"  run it alone: {reproducer(run, cell['cell'])}"
    if len(cells) > _SHOWN:
        yield f"\n... and {len(cells) - _SHOWN} more: --json FILE has all of them"
