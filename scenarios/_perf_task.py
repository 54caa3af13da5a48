"""A client process's part of a load: which requests are due, what each is, and what became of it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._perf_inputs import Tensors, Validator

_NAP = 0.05  # seconds: the longest time in which a stop is not seen
_WRONG_KEPT = 10


class Slot:
    """One request that is out at a time, with its sequence."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.target = 0
        self.step = 0  # in the sequence
        self.sequence = 0
        self.inputs = 0
        self.due = 0


class Task:
    """One load: which requests are due, and what came back."""

    def __init__(
        self, plan: Mapping[str, Any], options: Mapping[str, Any], sets: Mapping[str, Sequence[Tensors]]
    ) -> None:
        self.plan = plan
        self.options = options
        self.names: list[str] = [name for name, _ in plan["models"]]
        self.weights: list[float] = [weight for _, weight in plan["models"]]
        self.length: int = options["sequence_length"]
        self.sets = sets
        self.random = random.Random(plan["seed"])
        self.stopped = False
        self.rows: list[tuple[int, int, int, int, int]] = []  # end, latency, naive latency, target, code
        self.codes: list[str] = []
        self.messages: dict[str, str] = {}
        self.started = self.told = 0  # requests
        self.sent = self.validated = self.wrong = self.cancels = self.sequences = 0
        self.wrong_texts: list[str] = []
        self._lock = threading.Lock()
        self._answers = 0
        self._due_s = 0.0
        self._next = plan["begin_ns"]
        self._end = plan["begin_ns"] + int(plan["seconds"] * 1e9) if plan["seconds"] else None
        self._advance()

    @property
    def open(self) -> bool:
        """Whether requests are due at fixed times."""
        return self.plan["rate"] is not None

    def _advance(self) -> None:
        """Fixes when the next request is due."""
        if not self.open:
            return
        rate, processes = self.plan["rate"], self.plan["processes"]
        if self.plan["poisson"]:
            self._due_s += self.random.expovariate(rate / processes)
        else:
            self._due_s = (self.sent * processes + self.plan["index"]) / rate
        self._next = self.plan["begin_ns"] + int(self._due_s * 1e9)

    def ticket(self) -> int | None:
        """When the next request is due, 0 for at once, None when no more are sent."""
        with self._lock:
            requests = self.plan["requests"]
            if self.stopped or (requests is not None and self.sent >= requests):
                return None
            due = self._next if self.open else 0
            if self._end is not None and (due or time.monotonic_ns()) >= self._end:
                return None
            self.sent += 1
            self._advance()
            return int(due)

    def unsent(self) -> int:
        """Requests that were due before the end and were never sent."""
        count = 0
        limit = min(self._end or time.monotonic_ns(), time.monotonic_ns())
        requests = self.plan["requests"]
        while self.open and self._next < limit and (requests is None or self.sent < requests):
            self.sent += 1
            self._advance()
            count += 1
        return count

    def choose(self, slot: Slot) -> dict[str, Any]:
        """The model, inputs and settings of the slot's next request."""
        self.started += 1  # one thread alone sends
        if slot.step == 0:
            slot.target = self.random.choices(range(len(self.names)), self.weights)[0] if len(self.names) > 1 else 0
            if self.length:
                self.sequences += 1
                slot.sequence = (self.plan["step"] << 40) + (os.getpid() << 16) + self.sequences
        slot.inputs = slot.number % len(self.sets[self.names[slot.target]])
        settings: dict[str, Any] = {}
        if self.options["priority"]:
            settings["priority"] = self.options["priority"]
        if self.options["request_timeout"]:
            settings["timeout"] = round(self.options["request_timeout"] * 1e6)
        if self.length:
            last = slot.step + 1 >= self.length or self.stopped
            settings |= {"sequence_id": slot.sequence, "sequence_start": slot.step == 0, "sequence_end": last}
            slot.step = 0 if last else slot.step + 1
        return settings

    def back(self, slot: Slot, sent: int, code: str, message: str) -> None:
        """Writes down a request that ended now."""
        end = time.monotonic_ns()
        number = -1
        if code:
            if code not in self.codes:
                self.codes.append(code)
                self.messages[code] = message
            number = self.codes.index(code)
            slot.step = 0
        self.rows.append((end, end - (slot.due or sent), end - sent, slot.target, number))

    def picked(self, every: int) -> bool:
        """Whether this answer is one to be checked."""
        self._answers += 1
        return self._answers % every == 1 or every == 1

    def check(self, slot: Slot, validator: Validator, outputs: Callable[[], Tensors]) -> None:
        """Looks at an answer."""
        self.validated += 1
        model = self.names[slot.target]
        try:
            text = validator.wrong(model, slot.inputs, outputs())
        except Exception as error:  # whatever cannot be read is wrong
            text = f"{type(error).__name__}: {error}"
        if text:
            self.wrong += 1
            if len(self.wrong_texts) < _WRONG_KEPT:
                self.wrong_texts.append(f"{model}: {text}")


def sleep_until(task: Task, due: int, sleep: Callable[[float], None]) -> None:
    """Waits until a request is due, or no more are to be sent."""
    while not task.stopped and (left := due - time.monotonic_ns()) > 0:
        sleep(min(left / 1e9, _NAP))
