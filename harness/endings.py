"""Endings: the checks of every scenario, of how its child ended and of what it left behind."""

from __future__ import annotations

from typing import Any

from . import journal
from .child import Ended
from .journal import Event
from .roles import RUNNING
from .scenario import Run
from .verdict import Check, failed, passed, skipped, unknown


def process_check(run: Run) -> list[Check]:
    """How the child ended; every scenario's first checker."""
    ended = run.ended
    details: dict[str, Any] = {"stacks": ended.stacks, "log": ended.log[-10:], "errors": ended.errors[-10:]}
    # A scenario that says itself what it does says it better.
    where = ended.phase + (_outstanding(ended.events) if ended.phase == RUNNING else "")
    broken = journal.last(ended.events, "broken")
    if ended.how == "lost":
        return [unknown("process", f"the run was cut off while {where}: its end was not seen", **details)]
    if ended.how == "crashed":
        return [failed("process", f"Triton crashed with {ended.signal} while {where}", signal=ended.signal, **details)]
    if ended.how == "hung" and (late := _just_late(ended)):
        return [unknown("process", late, **details)]
    if ended.how == "hung":
        return [failed("process", f"Triton hung while {where}; ended after {ended.seconds:.1f} s", **details)]
    if broken is not None:
        return [unknown("process", f"the harness failed while {where}: {broken['text']}", **broken)]
    if journal.last(ended.events, "end") is None:
        return [failed("process", f"the run ended early with code {ended.code} while {where}", **details)]
    idle = [event for event in journal.all_of(ended.events, "fault") if event["state"] == "broken"]
    faults = [unknown(f"fault {event['name']}", f"it could not act: {event['text']}") for event in idle]
    return [passed("process", f"ended by itself after {ended.seconds:.2f} s"), *faults]


def leftovers_check(run: Run) -> list[Check]:
    """What the child left behind; every scenario's last checker, as something else is mostly the reason."""
    ended = run.ended
    if not ended.looked:
        return [skipped("left over", "not looked at: --in-process has nobody who could")]
    if ended.leftovers:
        text = f"left behind, and removed: {', '.join(ended.leftovers[:4])}"
        return [failed("left over", text, leftovers=ended.leftovers)]
    if ended.how != "ended":
        return []  # after kill -9 it is the harness that cleans up
    names = ", ".join(ended.litter)
    note = f"; but {names} came up meanwhile, of whatever process, and was removed" if names else ""
    return [passed("left over", f"no process, shared memory or temporary file{note}", litter=ended.litter)]


def _just_late(ended: Ended) -> str:
    """What to say of a run that was still getting on when its time was over; nothing of one that was not."""
    done = journal.all_of(ended.events, "op")
    if not done:
        return ""
    quiet = max(0.0, ended.seconds - (done[-1]["time_ns"] - ended.events[0]["time_ns"]) / 1e9)
    if quiet > ended.seconds / 2:
        return ""
    return f"--timeout ended a run that was getting on: {len(done)} operations were done, the last {quiet:.1f} s before"


def _outstanding(events: list[Event]) -> str:
    """Which operations were under way at the end."""
    started = {(event["worker"], event["number"]) for event in events if event["event"] == "invoke"}
    ended = {(event["worker"], event["number"]) for event in events if event["event"] == "op"}
    left = sorted(started - ended)
    if not left:
        return ""
    names = ", ".join(f"thread {worker} loop {number}" for worker, number in left[:8])
    return f" ({names}{' and others' if len(left) > 8 else ''})"
