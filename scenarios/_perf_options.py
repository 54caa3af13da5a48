"""perf's options: checked, completed, and in plain units."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from model_repos import faults

from . import _perf_models as models
from . import _perf_plan as plan
from .memalloc_command import check_repository

_WINDOW = 1.0  # seconds
_SHORTEST = 0.05
_STARTING = 120.0  # seconds for what is no measuring
_UNSEEN = ("ignore_host_policy", "log_copy_error", "wrong_preferred", "wrong_reported")  # faults that change no figure


def complete(options: dict[str, Any], baselines: Path) -> dict[str, Any]:
    """The options with what follows from them. Raises UsageError for what contradicts itself or does nothing."""
    for name in ("repository", "ab", "ab_model", "input_data", "triton", "fault", "compare"):
        if options[name] == "":
            raise UsageError(f"--{name.replace('_', '-')} is empty")
    full = {**options, "shm_prefix": f"tritoncapi_{os.getpid()}_{uuid.uuid4().hex[:8]}_"}
    full["models"] = plan.weighted(options["models"] or (() if options["repository"] else (models.BUILT_IN,)))
    full["shapes"] = plan.shapes(options["shapes"])
    full["points"] = plan.as_plain(plan.points(options))
    full["two_sides"] = bool(options["ab"] or options["ab_model"])
    full["metrics"] = list(dict.fromkeys(options["metrics"])) or ["throughput", "p95"]
    for name in ("stability", "allow"):
        full[name] = options[name] / 100
    _times(full, options)
    for name in ("repository", "triton", "ab", "input_data"):  # the child has a working directory of its own
        if full[name]:
            full[name] = os.path.abspath(os.path.expanduser(full[name]))
    _check_window(full)
    _check_models(full)
    _check_load(full)
    _check_sides(full)
    if full["threads"] is None:
        cpus = len(os.sched_getaffinity(0))
        full["threads"] = 1 if full["protocol"] == "c-api" else max(1, min(8, cpus // 2))
    full["baseline"] = full["machine"] = None
    if options["compare"]:
        from . import _perf_baseline  # noqa: PLC0415 - NumPy

        name = options["compare"]
        full["baseline"] = _perf_baseline.load(_perf_baseline.path_of(baselines, name), name)
        full["machine"] = _perf_baseline.machine()
    if full["peer"]:
        from . import _perf_peer  # noqa: PLC0415

        _perf_peer.require(full)
    least = plan.longest(full)
    if full["timeout"] is None:
        starting = _STARTING * (2 if full["ab"] else 1)
        full["timeout"] = least * (3 if full["peer"] else 1) + float(full["patience"]) + starting
    elif full["duration"] and full["timeout"] <= len(plan.steps(full)) * full["duration"]:
        raise UsageError(f"--timeout {full['timeout']:g} would end the run before its steps are over")
    return full


def _times(full: dict[str, Any], options: Mapping[str, Any]) -> None:
    for name in ("warmup", "window", "patience", "duration", "request_timeout"):
        text = options[name]
        full[name] = plan.seconds(f"--{name.replace('_', '-')}", text) if text is not None else None
    for name in ("window", "patience", "duration", "request_timeout"):
        if full[name] == 0:
            raise UsageError(f"--{name.replace('_', '-')} {options[name]}: give a time above 0")
    if full["duration"] and full["requests"]:
        raise UsageError("--duration and --requests exclude each other")
    if full["two_sides"] and not full["duration"] and not full["requests"]:
        full["duration"] = full["window"] or _WINDOW  # in each round
    if full["window"] is None:  # five windows of a short measurement
        full["window"] = min(_WINDOW, max(_SHORTEST, full["duration"] / 5)) if full["duration"] else _WINDOW


def _check_window(full: Mapping[str, Any]) -> None:
    if full["window"] < _SHORTEST:
        raise UsageError(f"--window: a window lasts {_SHORTEST * 1000:g}ms at least")


def _check_models(full: Mapping[str, Any]) -> None:
    names = [entry["name"] for entry in full["models"]]
    others = [full["ab_model"]] if full["ab_model"] else []
    if full["repository"]:
        if not names:
            raise UsageError("-r needs -m: the model in it to measure")
        for name in [*names, *others]:
            check_repository(full["repository"], name)
        if full["fault"] or full["instances"] != 1:
            raise UsageError("--fault and --instances belong to the built-in models; leave out -r")
        return
    known = models.built_in()
    for name in [*names, *others]:
        if name not in known:
            option = "--ab-model" if name in others else "-m"
            raise UsageError(f"{option} {name}: without -r there are {', '.join(known)}")
    if full["validate"]:
        raise UsageError("--validate is for models of your own (-r): the built-in ones' values are always checked")
    if full["input_data"] or full["shapes"]:
        name = "--input-data" if full["input_data"] else "--shape"
        raise UsageError(f"{name} is for models of your own (-r)")
    if full["fault"]:
        _check_fault(full, [*names, *others])


def _check_fault(full: Mapping[str, Any], names: list[str]) -> None:
    fault = full["fault"]
    delay, rest = models.split_fault(fault)
    try:
        planted = faults.names(rest) if rest else []
    except ValueError as error:
        raise UsageError(f"--fault: {error} (or {models.SLOW}:MILLISECONDS)") from None
    for name in planted:
        if name in ("leak_host", "leak_fd"):
            if not plan.lasts(full):
                least = f"--duration {plan.LONG:g}s"
                raise UsageError(f"--fault {name}: perf sees a leak only in one step of {least} or more")
        elif name in _UNSEEN or name.startswith("leak_"):
            raise UsageError(f"--fault {name}: perf does not see it; memalloc or multiserver does")
    if any(name.endswith("_python") for name in names):
        raise UsageError("--fault needs native models: only the test backend can plant it")
    if delay and not full["two_sides"] and not full["compare"]:
        raise UsageError(f"--fault {fault}: slowness shows only with --compare, --ab or --ab-model")


def _check_load(full: Mapping[str, Any]) -> None:
    if full["rate"] is None:
        for name in ("poisson", "in_flight"):
            if full[name]:
                raise UsageError(f"--{name.replace('_', '-')} needs --rate")
    if full["zero"] and full["input_data"]:
        raise UsageError("--zero and --input-data exclude each other")
    if full["input_data"] and not Path(full["input_data"]).is_file():
        raise UsageError(f"--input-data {full['input_data']}: there is no such file")
    if full["protocol"] != "c-api":
        for name in ("input", "output"):
            if full[name] != "cpu":
                raise UsageError(f"--{name} {full[name]}: over {full['protocol']} tensors go from and to the CPU")
    if full["protocol"] == "http" and full["cancel_rate"]:
        raise UsageError("--cancel-rate: HTTP cannot cancel; use --protocol grpc or c-api")


def _check_sides(full: Mapping[str, Any]) -> None:
    if full["ab"] and full["ab_model"]:
        raise UsageError("--ab and --ab-model exclude each other: compare two Tritons or two models")
    if full["ab"] and not os.path.exists(full["ab"]):
        raise UsageError(f"--ab {full['ab']}: there is no such file or directory")
    if full["two_sides"]:
        if full["compare"]:
            raise UsageError("--compare holds one side against a baseline; leave out --ab and --ab-model")
        if full["peer"]:
            raise UsageError("--peer runs beside one side; leave out --ab and --ab-model")
        if full["ab_model"] and full["repository"] and full["ab_model"] in [m["name"] for m in full["models"]]:
            raise UsageError(f"--ab-model {full['ab_model']}: this is side A's model already")
