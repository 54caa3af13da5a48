"""What changed from one run to another: verdicts, figures, cells, and what was run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..json_file import jsonable
from ..runner import FORMAT, Result
from ..verdict import Check, ExitCode, Verdict
from .cells import WORST_FIRST, Cell, cells_in
from .document import run
from .figures import figures

ABSENT = "absent"
_RANK = {Verdict.PASS.value: 0, Verdict.SKIPPED.value: 1, ABSENT: 1, Verdict.UNKNOWN.value: 2, Verdict.FAIL.value: 3}
_CELL_RANK = {**{outcome: n for n, outcome in enumerate(reversed(WORST_FIRST))}, ABSENT: 1}


@dataclass(frozen=True)
class Change:
    """A verdict (of the run, a check, a cell) in both runs, ``absent`` where there is none, and B's sentence."""

    kind: str
    name: str
    a: str
    b: str
    sentence: str

    @property
    def worse(self) -> bool:
        """Whether it got worse. What passed and is now skipped or gone is worse: less is known than before."""
        rank = _CELL_RANK if self.kind == "cell" else _RANK
        return rank.get(self.b, 2) > rank.get(self.a, 2)


@dataclass(frozen=True)
class Figure:
    """A figure in both runs; ``change`` is (b - a) / \\|a\\|, None where a is 0 or one of them is missing."""

    name: str
    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """The relative change."""
        return (self.b - self.a) / abs(self.a) if self.a and self.b is not None else None


@dataclass(frozen=True)
class Difference:
    """All that differs; what is the same in both is not listed."""

    scenario: str
    verdicts: Sequence[Change]
    figures: Sequence[Figure]
    described: Sequence[tuple[str, Any, Any]]
    same_figures: int

    @property
    def worse(self) -> list[Change]:
        """What got worse."""
        return [change for change in self.verdicts if change.worse]

    @property
    def exit_code(self) -> ExitCode:
        """1 where a verdict got worse."""
        return ExitCode.FAIL if self.worse else ExitCode.PASS

    def as_json(self) -> dict[str, Any]:
        """The difference as plain data: docs/report-schema.md."""
        made = {
            "format": {"name": "tritoncapi-harness-diff", "version": FORMAT},
            "scenario": self.scenario,
            "exit_code": int(self.exit_code),
            "verdicts": [{**asdict(change), "worse": change.worse} for change in self.verdicts],
            "figures": [{**asdict(figure), "change": figure.change} for figure in self.figures],
            "described": [{"name": name, "a": a, "b": b} for name, a, b in self.described],
        }
        plain = jsonable(made)
        assert isinstance(plain, dict)
        return plain


def diff(a: Result, b: Result) -> Difference:
    """What changed from ``a`` to ``b``, two runs of one scenario."""
    in_a, in_b = figures(a), figures(b)
    both = [Figure(name, in_a.get(name), in_b.get(name)) for name in dict.fromkeys([*in_a, *in_b])]
    changed = [figure for figure in both if figure.a != figure.b]
    return Difference(
        b.scenario.name,
        [change for change in _verdicts(a, b) if change.a != change.b],
        sorted(changed, key=_size, reverse=True),
        list(_described(a, b)),
        len(both) - len(changed),
    )


def _size(figure: Figure) -> float:
    return float("inf") if figure.change is None else abs(figure.change)


def _verdicts(a: Result, b: Result) -> Iterator[Change]:
    yield Change("run", b.scenario.name, a.verdict.value, b.verdict.value, b.sentence)
    in_a, in_b = _by_name(a.checks), _by_name(b.checks)
    for name in dict.fromkeys([*in_a, *in_b]):
        before, after = in_a.get(name), in_b.get(name)
        found = after or before
        yield Change("check", name, _verdict(before), _verdict(after), found.sentence if found else "")
    cells_a, cells_b = ({cell.name: cell for cell in cells_in(each)} for each in (a, b))
    for name in dict.fromkeys([*cells_a, *cells_b]):
        yield Change("cell", name, _outcome(cells_a.get(name)), _outcome(cells_b.get(name)), "")


def _by_name(checks: Sequence[Check]) -> dict[str, Check]:
    """Checks by name; one that comes again is numbered."""
    found: dict[str, Check] = {}
    for check in checks:
        name, again = check.name, 1
        while name in found:
            again += 1
            name = f"{check.name} ({again})"
        found[name] = check
    return found


def _verdict(check: Check | None) -> str:
    return check.verdict.value if check else ABSENT


def _outcome(cell: Cell | None) -> str:
    return cell.outcome if cell else ABSENT


def _described(a: Result, b: Result) -> Iterator[tuple[str, Any, Any]]:
    """Command, versions, machine, variables, options that differ; not what differs in every run."""
    left, right = (dict(_flat(run(each))) for each in (a, b))
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            yield name, left.get(name), right.get(name)


def _flat(described: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "command", described.get("command")
    for part in ("versions", "machine", "environment", "options"):
        inner = described.get(part)
        for name, value in (inner if isinstance(inner, Mapping) else {}).items():
            if name != "shm_prefix":
                yield f"{part} {name}", value
