"""Runs as they lie on disk, made by hand: what reports are made of, without a Triton."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.endings import process_check
from harness.leaks import leak_checks
from harness.scenario import Run, Scenario
from harness.verdict import Check, failed, passed, skipped, unknown

SECOND = 1_000_000_000
HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "{{ 7 * 7 }} ]]> \x1b[31mred\x00\x0b \u202e\ud800 \ufffe & ' \" -->"
)
Line = dict[str, Any]


def build(options: Mapping[str, Any]) -> Scenario:
    """A scenario whose checks are in its options, after those of the process and of growth."""

    def told(_run: Run) -> Sequence[Check]:
        made = {"pass": passed, "fail": failed, "unknown": unknown, "skipped": skipped}
        found = options.get("checks", [["values", "pass", "every answer is right"]])
        return [made[verdict](name, sentence, **dict(*evidence)) for name, verdict, sentence, *evidence in found]

    def growth(run: Run) -> Sequence[Check]:
        return leak_checks(run.samples, options["budgets"]) if options.get("budgets") else []

    return Scenario(name=options.get("name", "matrix"), checkers=[process_check, told, growth])


def save(
    folder: Path, events: Sequence[Line] = (), samples: Sequence[Line] = (), ended: Line | None = None, **options: Any
) -> Path:
    """Writes a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "scenario": options.get("name", "matrix"),
        "build": f"{__name__}:build",
        "options": options,
        "command": "tritoncapi-harness matrix -q",
        "started": "2026-11-21T12:00:00+0000",
        "versions": {"python": "3.11.7", "numpy": "1.26.4"},
        "machine": {"platform": "Linux", "cpus": 2},
        "environment": {},
    }
    told = [{"event": "note", "time_ns": 0, **event} for event in events]
    history = [*told, {"event": "end", "time_ns": 100 * SECOND}]
    full = {
        "how": "ended",
        "code": 0,
        "seconds": 2.5,
        "signal": "",
        "stacks": "",
        "log": [],
        "errors": [],
        "leftovers": [],
    }
    (folder / "run.json").write_text(json.dumps(described))
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    if ended != {}:
        (folder / "ended.json").write_text(json.dumps({**full, **(ended or {}), "history": len(history)}))
    return folder


def operations(count: int, threads: int = 4, bad: Sequence[int] = ()) -> list[Line]:
    """Operations of 8 ms, ``count`` on each thread; those of numbers in ``bad`` fail."""
    lines = []
    for number, worker in itertools.product(range(count), range(threads)):
        begin = SECOND + number * 10_000_000 + worker * 100_000
        names = {"worker": worker, "number": number}
        kind, text = ("fail", "went wrong") if number in bad else ("ok", "")
        lines.append({"event": "invoke", "time_ns": begin, **names})
        end = begin + 8_000_000 + number % 7 * 100_000
        lines.append(
            {"event": "op", "time_ns": end, "start_ns": begin, **names, "kind": kind, "text": text, "value": {}}
        )
    return lines


def sampled(count: int, leak: float = 1.0, every: int = 1) -> list[Line]:
    """Samples of three figures, ten a second; each ``every``-th counts its cycles. Descriptors leak."""
    chance = random.Random(7)
    lines = []
    for n in range(count):
        line: Line = {
            "time_ns": SECOND + n * SECOND // 10,
            "descriptors": 8 + leak * n,
            "heap_in_use": 10_000_000 + chance.randrange(400_000),
            "children": 0,
            "zombies": 0,
            "missing": {"gpu_process_bytes": "NVML: no driver"},
        }
        lines.append({**line, "label": "settled", "cycles": n} if n % every == 0 else line)
    return lines


PLACES = ("cpu", "pinned", "gpu:0")


def cells(reason: str = "zeros") -> list[Line]:
    """A matrix of 3 x 2 x 4 places, 3 datatypes, 2 backends: one broken corner, one known defect, one unknown."""
    lines = []
    axes = (PLACES, ("cpu", "gpu:0"), (*PLACES, "preferred"), ("int32", "fp32", "bytes"), ("native", "python"))
    for given, model, asked, datatype, backend in itertools.product(*axes):
        values = {"in": given, "model": model, "out": asked, "datatype": datatype, "backend": backend}
        outcome, evidence = "pass", ""
        if (backend, model, asked) == ("python", "gpu:0", "pinned"):
            outcome, evidence = "known", "the buffer was never written"
        if (given, model, asked, datatype, backend) == ("gpu:0", "cpu", "gpu:0", "bytes", "native"):
            outcome, evidence = "fail", f"OUTPUT0: 16 of 16 values are wrong: {reason}"
        if (given, model, asked, datatype, backend) == ("pinned", "gpu:0", "preferred", "fp32", "python"):
            outcome, evidence = "unknown", "no answer within 5 s"
        name = ",".join(f"{axis}={value}" for axis, value in values.items())
        lines.append({
            "event": "cell",
            "time_ns": SECOND + len(lines) * 1_000_000,
            "cell": name,
            "axes": values,
            "outcome": outcome,
            "expected": "fail" if outcome == "known" else "pass",
            "evidence": evidence,
            "ms": 1.25,
        })  # fmt: skip
    return lines


def steps(concurrencies: Sequence[int] = (1, 4, 16)) -> list[Line]:
    """Steps of a load: longer tails with more at once."""
    return [
        {
            "event": "step",
            "time_ns": (2 + n) * SECOND,
            "protocol": "c-api",
            "concurrency": concurrency,
            "throughput": 12_000.0 * math.sqrt(concurrency),
            "percentiles_us": {"p50": 40.0 * concurrency, "p99": 120.0 * concurrency, "p99.9": 900.0},
            "histogram_ns": [
                [int(30_000 * concurrency * 1.12**bucket), max(1, int(4e5 * math.exp(-bucket / 3)))]
                for bucket in range(40)
            ],
            "series": [
                [
                    second,
                    int(12_000 * math.sqrt(concurrency) * (1 - 0.1 * (second % 5 == 0))),
                    0,
                    41_000,
                    900_000 + second,
                ]
                for second in range(20)
            ],
        }
        for n, concurrency in enumerate(concurrencies)
    ]
