"""What this machine and this Triton have for the matrix, and which cells that leaves out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LacksError, UsageError
from tritoncapi import cuda
from tritoncapi._library import Library

from . import _matrix_exporters, _triton
from ._matrix_axes import EXPORTED, GPU, Filter, Reason, axes_on, reason

_SHM_FOR_LARGE = 1 << 30  # bytes of /dev/shm that a Python model needs for tensors of 64 MiB
MODELS_AT_ONCE = 8
"""Python models that are loaded at the same time; each is a process and holds shared memory."""


@dataclass(frozen=True)
class Machine:
    """The axes that there are, and why cells of them cannot be run. ``spared`` ones only the full matrix has."""

    devices: int
    axes: Mapping[str, Sequence[str]]
    reasons: Sequence[Reason]
    spared: Sequence[Reason]
    stubs: int


def look(library: Library, folder: Path) -> Machine:
    """Looks at the devices, the backends and what they need."""
    devices = cuda.device_count()
    exported = [name for name in EXPORTED if _has_backend(library, name)]
    python = _why_no_python(library, folder)
    reasons = _without_gpu() if devices == 0 else []
    if python:
        reasons.append(reason("backend=python,dlpack", python))
    reasons += _GENERAL
    if devices and not python and not _has_gpu_arrays():
        reasons.append(reason("backend=dlpack", "GPU tensors in Python need torch or cupy in the stub's python3"))
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if free < _SHM_FOR_LARGE:
        why = f"/dev/shm has {free >> 20} MiB free, Python models need {_SHM_FOR_LARGE >> 20} for such tensors"
        reasons.append(reason("backend=python,dlpack,size=64MiB", why))
    for name in exported:
        reasons += _matrix_exporters.reasons(name)
    return Machine(
        devices=devices,
        axes=axes_on(devices, ["native", "python", "dlpack", *exported]),
        reasons=reasons,
        spared=[*_SPARED, *_spared_beyond_the_first(devices)],
        stubs=max(1, min(MODELS_AT_ONCE, free // _triton.SHM_NEEDED)),
    )


_GENERAL = [
    reason("backend=dlpack,model=cpu", "GPU tensors need a model on a GPU"),
    reason("backend=dlpack,type=bytes", "DLPack has no text"),
    reason("backend=python,type=bf16", "NumPy has no BF16, so Python models on the CPU have none"),
    reason("backend=python,type=bytes,size=64MiB", "64 MiB of text are millions of Python objects"),
]
# Each Python model is a process that takes a second or more to start, longer with torch.
_STUB = "a Python process for each datatype: with --full only"
_SLOW = "a second or more for each cell: with --full only"
_SPARED = [
    reason("backend=python,dlpack,type=fp32,bytes,fp16,bf16,int64,bool,fp64,size=64MiB", _SLOW),
    reason("type=bytes,size=64MiB", _SLOW),
    reason("backend=python,model=gpu,type=fp32,bytes,fp16,bf16,int64,bool,fp64", _STUB),
    reason("backend=dlpack,type=fp16,int64,bool,fp64", _STUB),
]


def _spared_beyond_the_first(devices: int) -> list[Reason]:
    others = ",".join(f"gpu:{number}" for number in range(1, devices))
    return [reason(f"backend=dlpack,type=fp32,bf16,model={others}", _STUB)] if others else []


def _without_gpu() -> list[Reason]:
    why = "this machine has no GPU"
    return [reason(cells, why) for cells in ("in=pinned,gpu", "out=pinned,gpu,different", "model=gpu")]


def _has_backend(library: Library, name: str) -> bool:
    backends = library.triton.backends
    return backends is not None and (backends / name / f"libtriton_{name}.so").exists()


def _why_no_python(library: Library, folder: Path) -> str:
    try:
        _triton.require_python_backend(library, folder)
    except (LacksError, UsageError) as error:
        return str(error)
    return ""


def _has_gpu_arrays() -> bool:
    code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('torch') or u.find_spec('cupy')))"
    python = shutil.which("python3")  # whose packages the stubs import
    return python is not None and not subprocess.run([python, "-c", code], check=False, timeout=60).returncode


def check_only(axes: Mapping[str, Sequence[str]], only: Sequence[Filter]) -> None:
    """Raises LacksError for values that are not here, UsageError for filters that exclude each other."""
    for each in only:
        for axis, wanted in each.values.items():
            absent = [word for word in sorted(wanted) if word != GPU and word not in axes[axis]]
            if absent:
                have = ", ".join(axes[axis])
                raise LacksError(f"--only {each.text}: {axis}={absent[0]} is not here; {axis} has {have}")
    for axis, values in axes.items():
        if not any(all(each.fits(axis, value) for each in only) for value in values):
            raise UsageError(f"--only: the filters together leave no value of {axis}; several of them must all hold")
