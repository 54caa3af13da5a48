"""demo: memalloc in every form that this machine can run; what ``make run`` shows."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

import click

from harness import child, runner
from harness.errors import LacksError
from harness.json_file import check_writable, write_json
from harness.options import json_option, timeout_option, triton_option
from harness.verdict import Check, Verdict, exit_code

from . import info, memalloc

Case = dict[str, Any]
COLUMNS = {"backend": 7, "datatype": 8, "model on": 8, "input": 6, "output": 9, "policy": 6, "verdict": 7, "time": 7}


def cpu_cases() -> list[Case]:
    """Every datatype with and without a host policy on the native backend, and every datatype on the Python one."""
    return [
        make_case(backend, datatype=datatype, host_policy=policy)
        for backend, policy in (("native", None), ("native", "numa0"), ("python", None))
        for datatype in ("int32", "fp32", "bytes")
    ]


def gpu_cases(devices: int) -> list[Case]:
    """For one GPU every way in and out with the model on either side; for more, the ways across devices too."""
    places = ["cpu", "pinned", "gpu:0"]
    cases = [
        make_case(backend, input=given, output=asked, model_device=device)
        for backend, device, given, asked in itertools.product(
            ("native", "python"), ("cpu", "gpu:0"), places, [*places, "preferred"]
        )
    ]
    if devices > 1:
        cases += [
            make_case(backend, input=given, output=asked, model_device=device)
            for backend, (given, asked), device in itertools.product(
                ("native", "python"), (("gpu:1", "gpu:0"), ("gpu:0", "gpu:1")), ("gpu:0", "gpu:1")
            )
        ]
    return cases


def make_case(backend: str, **changes: str | None) -> Case:
    """memalloc's options for a case: the same keys for every one."""
    usual = {"datatype": "int32", "input": "cpu", "output": "cpu", "model_device": "cpu", "host_policy": None}
    return {"backend": backend, **usual, **changes}


def known_defect(case: Case) -> str:
    """Why memalloc is expected to fail here, or nothing: a defect of Triton's that it has to catch."""
    if python_on_gpu(case) and case["output"] == "pinned":
        return "known defect: the Python backend's GPU output does not arrive in pinned memory"
    return ""


def python_on_gpu(case: Case) -> bool:
    """True for a Python model with a GPU instance."""
    return case["backend"] == "python" and str(case["model_device"]).startswith("gpu")


def stuck_stub(case: Case, checks: list[Check]) -> str:
    """Why this failure is no surprise, or nothing: a defect of Triton's that shows only now and then."""
    bad = [check for check in checks if check.verdict == Verdict.FAIL]
    if python_on_gpu(case) and [check.name for check in bad] == ["left over"] and "UNLOADING" in bad[0].sentence:
        return "known defect, now and then: the stub of a Python model with GPU tensors does not end"
    return ""


def run_case(case: Case, options: dict[str, Any]) -> dict[str, Any]:
    """One row: how the case ended, and why."""
    began = time.monotonic()
    defect = known_defect(case)
    row: dict[str, Any] = {"case": case, "expected": "fail" if defect else "pass", "defect": defect}
    full = memalloc.complete({**options, **case})
    try:
        with tempfile.TemporaryDirectory(prefix="tritoncapi-demo-") as folder:
            result = runner.run("scenarios.memalloc:build", full, Path(folder), timeout=full["timeout"])
    except LacksError as error:
        return {**row, "verdict": "skipped", "sentence": str(error), "seconds": time.monotonic() - began}
    stuck = "" if defect else stuck_stub(case, result.checks)
    if stuck:
        row |= {"expected": "fail", "defect": stuck}
    row |= {"verdict": result.verdict.value, "sentence": result.sentence, "seconds": time.monotonic() - began}
    return row


def cells(row: dict[str, Any]) -> list[str]:
    """A row for people."""
    case = row["case"]
    note = shorten(row["sentence"], 140, placeholder=" …") if row["verdict"] != "pass" else ""
    if note and row["verdict"] == row["expected"]:
        note = row["defect"]
    return [
        case["backend"],
        case["datatype"],
        case["model_device"],
        case["input"],
        case["output"],
        case["host_policy"] or "-",
        row["verdict"].upper() if row["verdict"] != row["expected"] else row["verdict"],
        f"{row['seconds']:.2f} s",
        note,
    ]


def line(cells: Iterable[str]) -> str:
    """The cells under their columns; the last, a note, has none."""
    widths = [*COLUMNS.values(), 0]
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def total(rows: list[dict[str, Any]]) -> Verdict:
    """Pass when every case ended as expected; those that this machine cannot run do not count, unless they are all."""
    counted = [row for row in rows if row["verdict"] != "skipped"]
    if not counted:
        return Verdict.UNKNOWN
    surprises = {row["verdict"] for row in counted if row["verdict"] != row["expected"]}
    if not surprises:
        return Verdict.PASS
    return Verdict.UNKNOWN if surprises == {"unknown"} else Verdict.FAIL


def sentence(rows: list[dict[str, Any]]) -> str:
    """How many cases ran, and what became of the others."""
    skips = sum(row["verdict"] == "skipped" for row in rows)
    defects = sum(row["expected"] == "fail" == row["verdict"] for row in rows)
    text = f"{len(rows) - skips} of {len(rows)} cases ran"
    if skips:
        text += f", {skips} skipped: this machine lacks what they need"
    if defects:
        text += f", {defects} caught a known defect of Triton"
    return text


@click.command()
@timeout_option(30)
@triton_option
@json_option
@click.option("--gpu/--no-gpu", default=None, help="Run, or leave out, the GPU cases. Default: where there is a GPU.")
def command(timeout: float, triton: str | None, json_file: Path | None, gpu: bool | None) -> None:
    """Runs memalloc in every form that this machine can run, and shows one line for each.

    A defect of Triton that memalloc is known to catch is expected to fail, and counts as such.
    """
    from harness import report  # noqa: PLC0415

    check_writable(json_file)
    out = report.console()
    quiet = str(json_file) == "-"
    facts = info.collect(triton)
    devices = len(facts["gpus"]["devices"])
    if not quiet:
        info.show(facts)
        out.print("\nmemalloc: inputs and outputs of an add/sub model, placed and checked on this Triton\n")
    if gpu and not devices:
        raise LacksError(f"--gpu needs a CUDA device: {facts['gpus']['reason']}")
    cases = cpu_cases() + (gpu_cases(devices) if devices and gpu is not False else [])
    results: list[dict[str, Any]] = []
    if not quiet:
        out.print(line([*COLUMNS, ""]), style="bold")
    try:
        for case in cases:
            row = run_case(case, {"timeout": timeout, "triton": triton})
            results.append(row)
            if not quiet:
                style = None if row["verdict"] == row["expected"] else "bold red"
                out.print(line(cells(row)), markup=False, style=style)
        verdict, text = total(results), sentence(results)
    except (child.Interrupted, KeyboardInterrupt):
        verdict, text = Verdict.UNKNOWN, f"interrupted after {len(results)} of {len(cases)} cases"
    code = exit_code(verdict)
    if json_file is not None:
        result = {"info": facts, "rows": results, "verdict": verdict.value, "exit_code": int(code), "sentence": text}
        write_json(json_file, result)
    if not quiet:
        out.print()
        out.print(report.verdict_line("demo", verdict, text))
    raise SystemExit(code)
