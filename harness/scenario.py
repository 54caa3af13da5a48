"""Scenario: plain data that names the roles of a run. Every role has a do-nothing default.

A scenario is built twice from the same options: in the child, which runs it, and in the parent, which judges what the
child wrote down. So building one must cost nothing: roles import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from .child import Ended
from .journal import Event, Journal
from .verdict import Check, Verdict

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Context:
    """What a role in the child may use."""

    options: Mapping[str, Any]
    journal: Journal
    folder: Path


@dataclass(frozen=True)
class Operation:
    """One thing to do: the ``number``-th of worker ``worker``; both count from 0."""

    worker: int
    number: int


@dataclass(frozen=True)
class Outcome:
    """How it went: ``kind`` is ok, fail or unknown; ``value`` is plain data for the checkers."""

    kind: str
    value: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Run:
    """A finished run as it lies on disk."""

    options: Mapping[str, Any]
    ended: Ended
    samples: Sequence[Event] = ()

    @property
    def operations(self) -> list[Event]:
        """The operations that ended, in the order in which they did."""
        return [event for event in self.ended.events if event.get("event") == "op"]


Invoke = Callable[[Operation], None]
System = Callable[[Context], AbstractContextManager[Any]]
Workload = Callable[[Any, Operation], Outcome]
Load = Callable[[Context, Invoke, Callable[[], None]], None]
"""Decides when operations start: calls ``invoke`` on its threads, ``settled`` when none is under way."""
Fault = Callable[[Context, Any, Callable[[], bool]], None]
"""A timed action on its own thread; the last argument tells whether the load is over."""
Probes = Callable[[Context, Any], Sequence[Any]]
Checker = Callable[[Run], Sequence[Check]]
Line = Union[str, "Text"]
"""A line for people."""


@contextmanager
def no_system(_context: Context) -> Iterator[None]:
    """The system that is none."""
    yield None


def no_work(_system: Any, _operation: Operation) -> Outcome:
    """The operation that does nothing."""
    return Outcome("ok")


def no_load(_context: Context, _invoke: Invoke, _settled: Callable[[], None]) -> None:
    """The load without operations."""


def no_probes(_context: Context, _system: Any) -> Sequence[Any]:
    """Nothing is measured."""
    return ()


def no_lines(_run: Run) -> Iterable[Line]:
    """Nothing to show."""
    return ()


def no_more_lines(_run: Run, _verdict: Verdict) -> Iterable[Line]:
    """Nothing more to show."""
    return ()


def no_more(_ended: Ended) -> None:
    """What a crash left undone stays undone."""


def no_facts(_run: Run) -> Mapping[str, Any]:
    """Nothing more in the result."""
    return {}


@dataclass(frozen=True)
class Scenario:
    """What is run, how it is judged, and what is shown of it. ``probes`` makes the probes, in the child,
    once the system is there.

    ``summary`` is shown before the checks, ``appendix`` after them. ``proved`` is the sentence of a pass; an empty one
    stands for the number of checks. ``brief``: the history is short enough to be a part of the result.
    """

    name: str
    system: System = no_system
    workload: Workload = no_work
    load: Load = no_load
    faults: Sequence[Fault] = ()
    probes: Probes = no_probes
    checkers: Sequence[Checker] = ()
    probe_interval: float = 0.2  # seconds
    planted: str = ""
    """A fault that is built into the system: when every check passes, nothing has seen it, and that is no pass."""
    litter: Mapping[str, str] = field(default_factory=dict)
    """What the system makes outside the run's folder: glob pattern -> file name of the library that makes it."""
    summary: Callable[[Run], Iterable[Line]] = no_lines
    appendix: Callable[[Run, Verdict], Iterable[Line]] = no_more_lines
    proved: Callable[[Run], str] = lambda _run: ""
    resume: Callable[[Ended], Mapping[str, Any] | None] = no_more
    """After a crash: options that change for a child that goes on with the rest; None when there is none to make."""
    facts: Callable[[Run], Mapping[str, Any]] = no_facts
    """What the result as JSON says besides, by key."""
    brief: bool = False
