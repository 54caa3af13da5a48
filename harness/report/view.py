"""A saved run as the page's templates want it: texts, charts, and what is left out of a large one."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..leaks import amount
from ..runner import Result
from ..verdict import Check, Verdict
from . import latency
from .cells import WORDS as OUTCOMES
from .cells import WORST_FIRST, Cell, HeatMap, Spot, cells_in, command_of, heat_map
from .figures import figures, missing_of
from .plain import mapping, pretty, shortened, visible
from .series import Series, charts
from .steps import Step, steps_of
from .timeline import Timeline, timeline

_LOG_LINES = 200
_LOUD = 30  # warnings and errors
_LINE = 400  # characters of a line of a log
_STACKS = 60_000  # characters
_CELLS = 3000  # that are listed; those that need a look come first
_FIRST = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS, Verdict.SKIPPED)


@dataclass(frozen=True)
class CheckView:
    """A check and its evidence as texts."""

    check: Check
    evidence: Sequence[tuple[str, str]]

    @property
    def open(self) -> bool:
        """Whether its evidence is shown at once."""
        return self.check.verdict in (Verdict.FAIL, Verdict.UNKNOWN) and sum(len(t) for _, t in self.evidence) < 1500


@dataclass(frozen=True)
class MatrixView:
    """A heat map and its cells; ``kept`` are those whose evidence is on the page."""

    map: HeatMap
    cells: Sequence[Cell]
    kept: frozenset[int]
    commands: Sequence[str]
    evidence: Sequence[str]

    @cached_property
    def data(self) -> dict[str, Any]:
        """What the page's script needs to filter: for each cell its place, its outcome, its values of the filters."""
        values = {axis: {value: n for n, value in enumerate(each)} for axis, each in self.map.filters.items()}
        at = {index: place for place, spot in self.map.spots.items() for index in spot.cells}
        return {
            "outcomes": WORST_FIRST,
            "filters": [
                {"axis": visible(a), "values": [visible(v) for v in each]} for a, each in self.map.filters.items()
            ],
            "cells": [
                [*at[n], WORST_FIRST.index(cell.outcome), *(values[a][cell.axes.get(a, "-")] for a in values)]
                for n, cell in enumerate(self.cells)
            ],
        }

    @property
    def spots(self) -> list[Spot]:
        """The fields of the map, worst first."""
        return sorted(self.map.spots.values(), key=lambda spot: WORST_FIRST.index(spot.outcome))

    @property
    def bad(self) -> list[int]:
        """The cells that need a look, worst first."""
        numbers = [n for n, cell in enumerate(self.cells) if cell.bad]
        return sorted(numbers, key=lambda n: WORST_FIRST.index(self.cells[n].outcome))

    @property
    def counts(self) -> list[tuple[str, int]]:
        """How many cells of each outcome, worst first."""
        found = ((outcome, sum(cell.outcome == outcome for cell in self.cells)) for outcome in WORST_FIRST)
        return [(outcome, count) for outcome, count in found if count]


class View:
    """One run as the template wants it. Parts that the run does not have are empty."""

    def __init__(self, number: int, result: Result) -> None:
        self.id = f"run{number + 1}"
        self.result = result
        self.described = result.described
        self.ended = result.run.ended

    @property
    def title(self) -> str:
        """The scenario and the folder's name."""
        return self.result.scenario.name

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        return self.result.folder.name

    @property
    def started(self) -> str:
        """When it began, with room for a break between date and time."""
        return visible(str(self.described.get("started") or "not known").replace("T", " "))

    @property
    def how(self) -> str:
        """How the run's process ended."""
        if self.ended.how == "crashed":
            return f"crashed with {self.ended.signal} while {self.ended.phase}"
        words = {
            "ended": "ended by itself",
            "hung": f"was ended while {self.ended.phase}",
            "lost": "its end was not seen",
        }
        return words.get(self.ended.how, str(self.ended.how))

    @staticmethod
    def time(us: float) -> str:
        """A latency for people."""
        return latency.time(us)

    @staticmethod
    def outcome(name: str) -> str:
        """A cell's outcome for people."""
        return OUTCOMES.get(name, name)

    @property
    def command(self) -> str:
        """The command that made the run."""
        return visible(self.described.get("command") or "")

    @property
    def recheck(self) -> str:
        """The command that judges it again."""
        return f"tritoncapi-harness recheck {shlex.quote(str(self.result.folder))}"

    @cached_property
    def checks(self) -> list[CheckView]:
        """The checks, failures first."""
        ordered = sorted(self.result.checks, key=lambda check: _FIRST.index(check.verdict))
        return [CheckView(check, list(self._evidence(check))) for check in ordered]

    @property
    def counts(self) -> list[tuple[Verdict, int]]:
        """How many checks of each verdict, worst first."""
        found = ((verdict, sum(check.verdict == verdict for check in self.result.checks)) for verdict in _FIRST)
        return [(verdict, count) for verdict, count in found if count]

    def _evidence(self, check: Check) -> Iterable[tuple[str, str]]:
        figure = str(check.evidence.get("figure", ""))
        for name, value in check.evidence.items():
            whole = {"stacks": self.ended.stacks, "log": self.ended.log, "errors": self.ended.errors}.get(name)
            if name in ("stacks", "log", "errors") and (not value or self._same(value, whole)):
                continue
            if name in ("slope", "low", "high", "budget", "first", "last", "late_rise") and isinstance(
                value, (int, float)
            ):
                yield name, f"{amount(figure, value)}{f' ({value:,.10g})' if abs(value) >= 1024 else ''}"
                continue
            yield visible(name), pretty(value)

    @staticmethod
    def _same(value: Any, whole: Any) -> bool:
        """Whether it is on the page already: the whole, or its last lines."""
        return bool(
            value == whole or (isinstance(value, list) and isinstance(whole, list) and value == whole[-len(value) :])
        )

    @cached_property
    def summary(self) -> str:
        """The scenario's own lines."""
        try:
            lines = [getattr(line, "plain", str(line)) for line in self.result.scenario.summary(self.result.run)]
        except Exception as error:  # a damaged run: the rest of the page still says what is known
            lines = [f"the summary could not be made: {type(error).__name__}: {error}"]
        return visible("\n".join(lines).strip("\n"))

    @cached_property
    def matrix(self) -> MatrixView | None:
        """The heat map."""
        cells = cells_in(self.result)
        if not cells:
            return None
        order = sorted(range(len(cells)), key=lambda n: (WORST_FIRST.index(cells[n].outcome), n))
        kept = frozenset(order[:_CELLS])
        commands = [visible(command_of(cell, self.result.scenario.name)) for cell in cells]
        texts = [pretty(cell.evidence, 2000) if n in kept and cell.evidence else "" for n, cell in enumerate(cells)]
        return MatrixView(heat_map(cells), cells, kept, commands, texts)

    @cached_property
    def steps(self) -> list[Step]:
        """Measured steps."""
        return steps_of(self.ended.events)

    @cached_property
    def curves(self) -> list[tuple[str, latency.Curves]]:
        """Latency and throughput."""
        made = [
            ("Latency by percentile", latency.steps(self.steps)),
            ("Throughput over time", latency.throughput(self.steps)),
            ("Slowest answer of each second", latency.slowest(self.steps)),
            ("Time of an operation by percentile", latency.operations(self.ended.events)),
        ]
        return [(title, curves) for title, curves in made if curves is not None]

    @cached_property
    def step_columns(self) -> tuple[list[str], list[str]]:
        """The fields and the percentiles that any step has."""
        fields = list(dict.fromkeys(name for step in self.steps for name in step.fields))
        if len(self.steps) > 1:  # what all share tells nothing of one
            fields = [name for name in fields if len({step.fields.get(name) for step in self.steps}) > 1]
        points = list(dict.fromkeys(name for step in self.steps for name in step.percentiles_us))
        return fields, points

    @cached_property
    def series(self) -> list[Series]:
        """What was sampled."""
        return charts(self.result.run.samples, self.result.checks)

    @property
    def constants(self) -> list[Series]:
        """Those that never changed and nothing judged."""
        return [one for one in self.series if one.constant]

    @cached_property
    def missing(self) -> dict[str, str]:
        """What could not be sampled, and why."""
        return {visible(name): visible(why) for name, why in missing_of(self.result.run.samples).items()}

    @cached_property
    def timeline(self) -> Timeline | None:
        """Operations by thread."""
        return timeline(self.ended.events, self.result.run.samples)

    @cached_property
    def figures(self) -> list[tuple[str, str, str]]:
        """Each figure: its name, for people, and in full."""
        return [(visible(name), _shown(name, value), f"{value:,.10g}") for name, value in figures(self.result).items()]

    @cached_property
    def loud(self) -> str:
        """The last warnings and errors of Triton's log."""
        lines = [line for line in map(str, self.ended.log) if line[:1] in ("E", "W") and line[1:2].isdigit()]
        return _tail(lines[-_LOUD:], "")[0]

    @cached_property
    def log(self) -> tuple[str, str]:
        """The end of Triton's log, and what is said of it."""
        return _tail(self.ended.log, "lines")

    @cached_property
    def errors(self) -> tuple[str, str]:
        """The end of what was written to standard error."""
        return _tail(self.ended.errors, "lines")

    @cached_property
    def stacks(self) -> str:
        """The stacks of a crash or a hang."""
        return visible(shortened(self.ended.stacks.strip("\n"), _STACKS))

    @cached_property
    def environment(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Versions, machine, variables, options."""
        parts = [("Versions", "versions"), ("Machine", "machine"), ("Environment variables", "environment")]
        found = [(title, _pairs(mapping(self.described.get(name)))) for title, name in parts]
        return [*found, ("Options", _pairs(self.result.run.options))]

    @property
    def library(self) -> str:
        """Which Triton ran, where the history says so."""
        events = [event for event in self.ended.events if event.get("event") in ("library", "server")]
        words = [str(event.get("why") or f"{event.get('name')} {event.get('version')}") for event in events]
        return visible("; ".join(dict.fromkeys(words)))


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(visible(name), pretty(value, 500)) for name, value in values.items()]


def _tail(lines: Sequence[str], what: str) -> tuple[str, str]:
    kept = lines[-_LOG_LINES:]
    text = "\n".join(visible(shortened(str(line), _LINE)) for line in kept)
    note = f"the last {len(kept)} of {len(lines):,} {what}" if len(kept) < len(lines) else f"{len(kept)} {what}"
    return text, note


def _shown(name: str, value: float) -> str:
    figure = name.rpartition(" ")[0]
    return amount(figure if name.endswith((" first", " last", " max", " slope")) else name, value)
