"""perf's peer: perf_analyzer in C-API mode, on the same model and the same Triton, in a process of its own."""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import model_repos
from harness.errors import LacksError, UsageError
from harness.journal import Journal

from ._perf_plan import longest

PROGRAM = "perf_analyzer"
_NEEDS = "it needs glibc 2.38 or newer"


def find() -> str | None:
    """The program: of the package that this interpreter has, beside the interpreter, or on PATH."""
    # The package's script on PATH starts the program and forgets its exit code.
    package = importlib.util.find_spec(PROGRAM)
    places = [Path(folder) / "bin" for folder in (package.submodule_search_locations or [])] if package else []
    for place in (*places, Path(sys.executable).parent):
        if os.access(place / PROGRAM, os.X_OK):
            return str(place / PROGRAM)
    return shutil.which(PROGRAM)


def require(options: Mapping[str, Any]) -> None:
    """Raises LacksError where it cannot run here, UsageError for what it cannot do."""
    if options["protocol"] != "c-api":
        raise UsageError("--peer perf_analyzer: it is run in its C-API mode; leave out --protocol")
    if len(options["models"]) > 1:
        raise UsageError("--peer perf_analyzer: it drives one model at a time")
    if options["rate"] is not None:
        raise UsageError("--peer perf_analyzer: it is compared by --concurrency")
    for name in ("priority", "request_timeout", "cancel_rate", "input_data"):
        if options[name]:
            raise UsageError(f"--peer perf_analyzer: its C-API mode has no --{name.replace('_', '-')}")
    program, glibc = find(), (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
    if program is None:
        here = f"; this machine has glibc {glibc}, so it would not run" if _older(glibc) else ""
        raise LacksError(f"--peer: there is no {PROGRAM} on PATH: pip install perf-analyzer ({_NEEDS}{here})")
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LacksError(f"--peer: {program} does not run: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        text = next((line for line in lines if "GLIBC" in line), lines[0] if lines else f"code {done.returncode}")
        note = f": {_NEEDS}, this machine has {glibc}" if _older(glibc) or "GLIBC" in text else ""
        raise LacksError(f"--peer: {program} does not run here{note} ({text.strip()})")


def _older(glibc: str) -> bool:
    try:
        return tuple(int(part) for part in glibc.split(".")[:2]) < (2, 38)
    except ValueError:
        return False


def run(options: Mapping[str, Any], library: Any, folder: Path, journal: Journal) -> None:
    """Runs it on each concurrency and writes its figures down; what it says when it fails, too."""
    place = folder / "peer"
    (place / "triton").mkdir(parents=True)
    triton = library.triton
    # It wants a directory with lib/libtritonserver.so and backends/, and opens the library by that path.
    (place / "triton" / "lib").symlink_to(triton.library.parent)
    model_repos.backend_directory(place / "triton" / "backends", triton.backends)
    if triton.caches.is_dir():
        (place / "triton" / "caches").symlink_to(triton.caches)
    repository = options["repository"] or str(folder / "repository-A")
    rows: list[dict[str, str]] = []
    problems = []
    for point in options["points"]:
        found, text = _one(options, point["concurrency"], place, repository, triton)
        rows += found
        problems += [text] if text else []
    journal.write("peer", program=find(), rows=rows, text="; ".join(problems))


def _one(
    options: Mapping[str, Any], concurrency: int, place: Path, repository: str, triton: Any
) -> tuple[list[dict[str, str]], str]:
    file = place / f"{concurrency}.csv"
    command = [
        str(find()),
        *("-m", options["models"][0]["name"]),
        "--service-kind=triton_c_api",
        f"--triton-server-directory={place / 'triton'}",
        f"--model-repository={repository}",
        f"--concurrency-range={concurrency}",
        f"--measurement-interval={round(options['window'] * 1000)}",
        f"--max-trials={options['windows']}",
        f"--stability-percentage={options['stability'] * 100:g}",
        *("-b", str(options["batch"])),
        *("-f", str(file)),
        *(["--input-data=zero"] if options["zero"] else []),
        *(f"--shape={name}:{','.join(map(str, dims))}" for name, dims in options["shapes"].items()),
    ]
    if options["sequence_length"]:
        command.append(f"--sequence-length={options['sequence_length']}")
    path = os.pathsep.join(part for part in (str(triton.library.parent), os.environ.get("LD_LIBRARY_PATH", "")) if part)
    # Preloaded, so that its backends find the library's symbols: it opens the library for itself alone.
    environment = {**os.environ, "LD_PRELOAD": str(triton.library), "LD_LIBRARY_PATH": path}
    log = place / f"{concurrency}.txt"
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                timeout=longest(options) * 2 + 60,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return [], f"concurrency {concurrency}: it did not end"
    rows: list[dict[str, str]] = []
    if file.exists():
        with file.open(newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("Concurrency") and row.get("Inferences/Second")]
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    if done.returncode and not rows:
        return [], f"concurrency {concurrency}: it ended with code {done.returncode}: {' '.join(last)}"
    return rows, f"concurrency {concurrency}: its windows do not agree" if done.returncode == 2 else ""
