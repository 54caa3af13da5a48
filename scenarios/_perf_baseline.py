"""perf's baselines: what is saved of a run, and how a later one, or side B, is held against it."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import LacksError, UsageError
from harness.verdict import Check, skipped, unknown

from . import _perf_compare as compare

VERSION = 1
_NAME = re.compile(r"[\w.+-]+")
_SETTINGS = (
    *("protocol", "batch", "sequence_length", "input", "output"),
    *("threads", "instances", "cancel_rate", "poisson"),
)
Step = Mapping[str, Any]


def path_of(folder: Path, name: str) -> Path:
    """Where a baseline of this name lies. Raises UsageError for a name that is none."""
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise UsageError(f"baseline {name!r}: use letters, digits, and . + - _")
    return folder / f"{name}.json"


def machine() -> dict[str, Any]:
    """What two machines must share for their figures to be compared."""
    from .info import gpus  # noqa: PLC0415

    cpu = ""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "architecture": platform.machine(),
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": [device["name"] for device in gpus()["devices"]],
    }


def settings(options: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What two runs must share too: models with weights and inputs, and how they are driven."""
    weights = {entry["name"]: entry["weight"] for entry in options["models"]}
    found = {name: options[name] for name in _SETTINGS}
    inputs = {model["name"]: model["inputs"] for model in models}
    return {**found, "models": weights, "inputs": inputs, "shapes": dict(options["shapes"])}


def make(
    name: str,
    options: Mapping[str, Any],
    steps: Sequence[Step],
    models: Sequence[Mapping[str, Any]],
    library: Mapping[str, Any] | None,
    command: str,
) -> dict[str, Any]:
    """A baseline as plain data."""
    return {
        "version": VERSION,
        "name": name,
        "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "machine": machine(),
        "triton": {key: (library or {}).get(key) for key in ("path", "why", "api")},
        "settings": settings(options, models),
        "points": {
            step["key"]: {
                key: step[key] for key in ("throughput", "percentiles_us", "requests", "stable", "other_cpu", "slices")
            }
            for step in steps
        },
    }


def save(path: Path, baseline: Mapping[str, Any]) -> None:
    """Writes it, whole or not at all. Raises LacksError."""
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(baseline) + "\n")
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise LacksError(f"baseline {path}: cannot be written: {error.strerror}") from error


def load(path: Path, name: str) -> dict[str, Any]:
    """A saved baseline. Raises UsageError."""
    try:
        found = json.loads(path.read_text())
        if found["version"] != VERSION or not found["points"]:
            raise ValueError("it is of another version of this tool, or empty")
        for point in found["points"].values():
            compare.rows_of(point)
        return dict(found)
    except OSError as error:
        saved = sorted(entry.stem for entry in path.parent.glob("*.json")) if path.parent.is_dir() else []
        have = f"there are {', '.join(saved)}" if saved else "there are none"
        raise UsageError(f"--compare {name}: {path}: {error.strerror}; {have} (--save NAME makes one)") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"--compare {name}: {path} holds no baseline: {error}") from error


def against(
    options: Mapping[str, Any],
    steps: Sequence[Step],
    models: Sequence[Mapping[str, Any]],
    library: Mapping[str, Any] | None,
) -> list[Check]:
    """One verdict a point that both have; unknown where the two runs are not alike, unless forced."""
    baseline = options["baseline"]
    name = baseline["name"]
    now = {"machine": options["machine"], "settings": settings(options, models)}
    differences = [
        f"{what} {key}: {old!r} then, {new!r} now"
        for what in ("machine", "settings")
        for key, (old, new) in _unequal(baseline[what], json.loads(json.dumps(now[what]))).items()
    ]
    checks: list[Check] = []
    if differences:
        text = f"{name} was measured under other conditions: {'; '.join(differences[:3])}"
        if not options["force"]:
            return [unknown("baseline", f"{text}; --force compares all the same", differences=differences)]
        checks.append(skipped("baseline", text, differences=differences))
    old_triton = baseline["triton"]
    if library is not None and old_triton["path"] != library["path"]:
        checks.append(skipped("triton", f"{name} was measured on {old_triton['path']} (C API {old_triton['api']})"))
    common = [step for step in steps if step["key"] in baseline["points"]]
    if not common:
        have = ", ".join(baseline["points"])
        return [*checks, unknown("regression", f"{name} has none of these points; it has {have}")]
    missing = [step["key"] for step in steps if step["key"] not in baseline["points"]]
    if missing:
        checks.append(skipped("points", f"not in {name}, so not compared: {', '.join(missing)}"))
    for step in common:
        before = baseline["points"][step["key"]]
        new, old = compare.rows_of(step), compare.rows_of(before)
        disturbed = min(0.99, max(0.0, step["other_cpu"] - before["other_cpu"]) / options["machine"]["cpus"])
        changes = [
            compare.Change(metric, compare.ratio(new, old, metric), options["allow"], disturbed)
            for metric in options["metrics"]
        ]
        checks.append(compare.judge(f"regression, {step['key']}", changes, name))
    return checks


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def sides(options: Mapping[str, Any], steps: Sequence[Step]) -> list[Check]:
    """One verdict a point: side B against side A, round by round."""
    checks = []
    for key in dict.fromkeys(step["key"] for step in steps):
        rounds: dict[int, dict[str, Any]] = {}
        for step in steps:
            if step["key"] == key:
                rounds.setdefault(step["round"], {})[step["side"]] = compare.rows_of(step)
        pairs = [(both["A"], both["B"]) for _, both in sorted(rounds.items()) if len(both) == 2]
        if not pairs:
            checks.append(unknown(f"A and B, {key}", "no round has both sides"))
            continue
        changes = [
            compare.Change(metric, compare.paired_ratio(pairs, metric), options["allow"])
            for metric in options["metrics"]
        ]
        checks.append(compare.judge(f"A and B, {key}", changes, "side A"))
    return checks

