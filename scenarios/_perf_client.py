"""perf's client process: sends requests with tritonclient and tells when each ended. It loads no Triton.

Lines of JSON on standard input are what to do, lines on standard output what was done; the end of the input is its end.
Sending runs on threads (gRPC) or greenlets (HTTP) of its own, so that reading and telling do not hold it up.
"""

from __future__ import annotations

import json
import os
import queue
import random
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy.typing as npt

from ._perf_inputs import Tensors, Validator, input_sets
from ._perf_task import Slot, Task, sleep_until

TELL = 0.03  # seconds between two lines of what was done


class Client:
    """tritonclient for one protocol, with the inputs prepared."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.options = setup["options"]
        self.grpc = setup["protocol"] == "grpc"
        self.url = setup["url"]
        self.sets = {
            model["name"]: input_sets(model, self.options, number) for number, model in enumerate(setup["models"])
        }
        self.validator = Validator(setup["validation"], self.sets) if setup["validation"] else None
        if self.grpc:
            from tritonclient import grpc as client  # noqa: PLC0415
        else:
            from tritonclient import http as client  # noqa: PLC0415
        self.package = client
        self.inputs = {
            model["name"]: [self._inputs(model, entry) for entry in self.sets[model["name"]]]
            for model in setup["models"]
        }

    def _inputs(self, model: Mapping[str, Any], entry: Tensors) -> list[Any]:
        found = []
        for tensor in model["inputs"]:
            array = entry[tensor["name"]]
            if tensor["datatype"] == "BF16":
                array = _as_bfloat16(array)
            made = self.package.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
            made.set_data_from_numpy(array)
            found.append(made)
        return found

    def run(self, task: Task) -> None:
        """Sends what is due until all has come back."""
        patience = self.options["patience"]
        if self.grpc:
            with self.package.InferenceServerClient(self.url) as client:
                alone = task.plan["share"] == 1 and not self.options["cancel_rate"]
                (self._one_by_one if alone else self._with_callbacks)(task, client, patience)
            return
        import gevent  # noqa: PLC0415

        with self.package.InferenceServerClient(
            self.url, concurrency=task.plan["share"], connection_timeout=patience, network_timeout=patience
        ) as client:
            workers = [
                gevent.spawn(self._work, task, Slot(number), client.infer, gevent.sleep)
                for number in range(task.plan["share"])
            ]
            gevent.joinall(workers, raise_error=True)

    def _one_by_one(self, task: Task, client: Any, patience: float) -> None:
        def infer(model: str, inputs: Any, **settings: Any) -> Any:
            return client.infer(model, inputs, client_timeout=patience, **settings)

        self._work(task, Slot(0), infer, time.sleep)

    def _work(self, task: Task, slot: Slot, infer: Callable[..., Any], sleep: Callable[[float], None]) -> None:
        """Sends a slot's requests one after the other."""
        while (due := task.ticket()) is not None or slot.step:
            slot.due = due or 0
            if due:
                sleep_until(task, due, sleep)
            settings = task.choose(slot) if due is not None else self._last(task, slot)
            model = task.names[slot.target]
            sent = time.monotonic_ns()
            try:
                result = infer(model, self.inputs[model][slot.inputs], **settings)
            except Exception as error:  # an answer like any other
                task.back(slot, sent, *code_of(error))
            else:
                task.back(slot, sent, "", "")
                self._look(task, slot, result)

    def _last(self, task: Task, slot: Slot) -> dict[str, Any]:
        """One request more, which ends a slot's open sequence."""
        task.stopped = True
        return task.choose(slot)

    def _with_callbacks(self, task: Task, client: Any, patience: float) -> None:
        """One thread sends, gRPC's own threads say what came back: the lock changes hands as little as possible."""
        idle: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for number in range(task.plan["share"]):
            idle.put(Slot(number))
        out = task.plan["share"]
        chance = random.Random(task.plan["seed"] + 1)
        while out:
            slot = idle.get()
            due = task.ticket()
            if due is None and not slot.step:
                out -= 1
                continue
            slot.due = due or 0
            if due:
                sleep_until(task, due, time.sleep)
            settings = task.choose(slot) if due is not None else self._last(task, slot)
            model = task.names[slot.target]
            sent = time.monotonic_ns()

            def back(result: Any, error: Any, slot: Slot = slot, sent: int = sent) -> None:
                try:
                    task.back(slot, sent, *(code_of(error) if error is not None else ("", "")))
                    if error is None:
                        self._look(task, slot, result)
                finally:
                    idle.put(slot)

            context = client.async_infer(
                model, self.inputs[model][slot.inputs], callback=back, client_timeout=patience, **settings
            )
            if self.options["cancel_rate"] and chance.random() < self.options["cancel_rate"]:
                task.cancels += 1
                context.cancel()

    def _look(self, task: Task, slot: Slot, result: Any) -> None:
        """Checks the first and every k-th answer."""
        if self.validator is None or not task.plan["check"] or not task.picked(int(self.options["validate_every"])):
            return
        response = result.get_response()
        outputs = response.outputs if self.grpc else response["outputs"]
        names = [output.name if self.grpc else output["name"] for output in outputs]
        task.check(slot, self.validator, lambda: {name: result.as_numpy(name) for name in names})


def _as_bfloat16(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What tritonclient takes for BF16: an array of ml_dtypes, which newer ones bring, or of float32."""
    try:
        import ml_dtypes  # noqa: PLC0415
    except ImportError:
        return array
    return array.astype(ml_dtypes.bfloat16)


def code_of(error: BaseException) -> tuple[str, str]:
    """An error's code and text: gRPC's name of it, ``HTTP 400``, or the exception's name."""
    status = getattr(error, "status", None)
    code = status() if callable(status) else None
    if code is None:
        return type(error).__name__, str(error)
    text = str(code).removeprefix("StatusCode.")
    message = getattr(error, "message", None)
    return (f"HTTP {text}" if text.isdigit() else text), str(message() if callable(message) else error)


def main() -> int:
    """Sets up once, then runs one load after the other."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no line of ours
    lines = Lines(0)
    setup = lines.next(None)
    if setup is None:
        return 0
    client = Client(setup)
    _tell(told, {"ready": True})
    while (plan := lines.next(None)) is not None:
        if "run" in plan:
            _run(client, plan["run"], lines, told)
    return 0


def _run(client: Client, plan: Mapping[str, Any], lines: Lines, told: IO[str]) -> None:
    task = Task(plan, client.options, client.sets)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            client.run(task)
        except BaseException as error:
            failure.append(error)

    worker = threading.Thread(target=work, name="perf-client", daemon=True)
    worker.start()
    while worker.is_alive():
        message = lines.next(TELL)
        if message is None and lines.ended:
            os._exit(0)  # nobody wants to know any more
        if message is not None and "stop" in message:
            task.stopped = True
        _tell_rows(task, told)
    _tell_rows(task, told)
    done = {
        "messages": task.messages,
        "validated": task.validated,
        "wrong": task.wrong,
        "wrong_texts": task.wrong_texts,
        "cancels": task.cancels,
        "sequences": task.sequences,
        "unsent": task.unsent(),
        "failure": f"{type(failure[0]).__name__}: {failure[0]}" if failure else "",
    }
    _tell(told, {"done": done})


def _tell_rows(task: Task, told: IO[str]) -> None:
    """What ended, and until when that is all."""
    now, count = time.monotonic_ns(), len(task.rows)  # others only append
    rows = task.rows[:count]
    del task.rows[:count]
    task.told += count
    out = task.started - task.told
    _tell(told, {"rows": rows, "codes": list(task.codes), "now": now, "out": out})


def _tell(told: IO[str], message: Mapping[str, Any]) -> None:
    told.write(json.dumps(message) + "\n")
    told.flush()


class Lines:
    """Lines of JSON from a descriptor, with a time limit."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rest = b""
        self.ended = False

    def next(self, timeout: float | None) -> dict[str, Any] | None:
        """The next line; None when the time is over or there are no more."""
        while b"\n" not in self._rest and not self.ended:
            ready, _, _ = select.select([self.descriptor], [], [], timeout)
            if not ready:
                return None
            data = os.read(self.descriptor, 1 << 16)
            self.ended = not data
            self._rest += data
        line, newline, rest = self._rest.partition(b"\n")
        if not newline:
            return None
        self._rest = rest
        found: dict[str, Any] = json.loads(line)
        return found


if __name__ == "__main__":
    sys.exit(main())
