"""info: which Triton would run and why that one, and what this machine offers it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from harness.json_file import check_writable, write_json
from harness.options import json_option, triton_option
from harness.verdict import ExitCode


def collect(triton: str | None = None) -> dict[str, Any]:
    """Everything that ``info`` shows, as plain data. Raises UsageError for a wrong path, LacksError."""
    return {
        "triton": triton_info(triton),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "gpus": gpus(),
        "shm": shm(),
        "numa_nodes": numa_nodes(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def triton_info(path: str | None) -> dict[str, Any]:
    """The library, its versions, functions, backends and caches, and the Python backend's interpreter."""
    from tritoncapi._bindings import API_MAJOR, API_MINOR, ROWS  # noqa: PLC0415

    from . import _triton  # noqa: PLC0415 - NumPy and the library take their time

    library = _triton.load_or_explain(path)
    triton = library.triton
    return {
        "library": str(triton.library),
        "root": str(triton.root),
        "why": triton.why,
        "version": server_version(library),
        "api": ".".join(map(str, library.api_version)),
        "bindings_api": f"{API_MAJOR}.{API_MINOR}",
        "functions_bound": len(ROWS) - len(library.api.missing),
        "functions_missing": library.api.missing,
        "backends": names(triton.backends),
        "caches": names(triton.caches),
        "python_backend": python_backend(triton.backends / "python"),
    }


def server_version(library: Any) -> str:
    """The release, which only a running server tells."""
    from tritoncapi import Server, log  # noqa: PLC0415

    log.configure(info=False, warn=False, error=False, library=library)
    with (
        tempfile.TemporaryDirectory(prefix="tritoncapi-info-") as empty,
        Server(empty, library=library, metrics=False, log_info=False, log_warn=False, log_error=False) as server,
    ):
        return str(server.metadata["version"])


def names(folder: Path) -> list[str]:
    """The folders in a folder."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def python_backend(folder: Path) -> dict[str, Any] | None:
    """The stub, the interpreter it imports from, that one's NumPy, and what is wrong with them."""
    from tritoncapi._locate import STUB  # noqa: PLC0415

    from . import _triton  # noqa: PLC0415

    if not folder.is_dir():
        return None
    stub = folder / STUB
    problems = []
    version = _triton.stub_numpy_version()
    if not stub.exists():
        problems.append(f"there is no {STUB} for Python {sys.version_info.major}.{sys.version_info.minor}")
    else:
        problems += [f"the stub's library {name} is not found" for name in _triton.missing_libraries(stub)]
        if version and int(version.split(".")[0]) >= 2 and not _triton.stub_knows_numpy2(stub):
            problems.append(
                f"NumPy {version} with a backend built for NumPy 1: every output comes back empty, without an error"
            )
    if version is None:
        problems.append("the stub's interpreter has no NumPy")
    return {
        "stub": str(stub) if stub.exists() else None,
        "interpreter": shutil.which("python3"),
        "libpython": _triton.libpython_note(),
        "numpy": version,
        "problems": problems,
    }


def gpus() -> dict[str, Any]:
    """GPUs and driver through NVML."""
    try:
        import pynvml  # noqa: PLC0415

        pynvml.nvmlInit()
    except Exception as error:  # no driver, no NVML: whatever it says is the reason
        return {"driver": None, "devices": [], "reason": str(error)}
    try:
        devices = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            devices.append(
                {
                    "index": index,
                    "name": pynvml.nvmlDeviceGetName(handle),
                    "uuid": pynvml.nvmlDeviceGetUUID(handle),
                    "memory_total": memory.total,
                    "memory_used": memory.used,
                }
            )
        return {"driver": pynvml.nvmlSystemGetDriverVersion(), "devices": devices, "reason": ""}
    finally:
        pynvml.nvmlShutdown()


def shm() -> dict[str, int] | None:
    """Bytes of /dev/shm."""
    if not Path("/dev/shm").is_dir():
        return None
    usage = shutil.disk_usage("/dev/shm")
    return {"total": usage.total, "free": usage.free}


def numa_nodes() -> list[int]:
    """The machine's NUMA nodes."""
    root = Path("/sys/devices/system/node")
    if not root.is_dir():
        return []
    return sorted(int(entry.name[4:]) for entry in root.glob("node[0-9]*"))


def rows(info: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people: label and text."""
    triton, size = info["triton"], _mebibytes
    missing = triton["functions_missing"]
    found = [
        ("Triton", f"{triton['version']} ({triton['library']})"),
        ("chosen", triton["why"]),
        ("C API", f"{triton['api']}: {triton['functions_bound']} functions bound, {len(missing)} missing"),
        *[("", f"missing: {name}") for name in missing],
        ("backends", ", ".join(triton["backends"]) or "none"),
        ("caches", ", ".join(triton["caches"]) or "none"),
    ]
    python = triton["python_backend"]
    if python is not None:
        found.append(("Python stub", f"{python['interpreter']}, NumPy {python['numpy'] or 'none'}"))
    found.append(("Python", f"{info['python']['version']} ({info['python']['executable']})"))
    devices = info["gpus"]["devices"]
    if devices:
        found.append(("driver", info["gpus"]["driver"]))
        found += [
            (f"GPU {gpu['index']}", f"{gpu['name']}, {size(gpu['memory_used'])} of {size(gpu['memory_total'])} used")
            for gpu in devices
        ]
    else:
        found.append(("GPUs", f"none ({info['gpus']['reason']})"))
    shared = info["shm"]
    found.append(("/dev/shm", f"{size(shared['free'])} free of {size(shared['total'])}" if shared else "missing"))
    nodes = ", ".join(map(str, info["numa_nodes"])) or "unknown"
    found.append(("CPUs", f"{info['cpus']}, NUMA nodes: {nodes}"))
    return found


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def warnings(info: dict[str, Any]) -> list[str]:
    """What will go wrong here."""
    python = info["triton"]["python_backend"]
    return [f"Python backend: {problem}" for problem in (python["problems"] if python else [])]


@click.command()
@triton_option
@json_option
def command(triton: str | None, json_file: Path | None) -> None:
    """Shows which Triton would run and why that one, and what this machine offers it."""
    check_writable(json_file)
    info = collect(triton)
    if json_file is not None:
        write_json(json_file, {**info, "exit_code": int(ExitCode.PASS)})
    if str(json_file) != "-":
        show(info)
    raise SystemExit(ExitCode.PASS)


def show(info: dict[str, Any]) -> None:
    """Prints the rows, and the warnings loudly."""
    from harness import report  # noqa: PLC0415

    out = report.console()
    for label, text in rows(info):
        out.print(f"{label:<12} {text}".rstrip(), markup=False)
    for warning in warnings(info):
        out.print(f"WARNING: {warning}", style="bold red", markup=False)
