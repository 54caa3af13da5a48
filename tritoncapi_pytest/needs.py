"""What a test needs, as its ``triton`` marker says, and whether this machine has it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from harness.errors import LacksError, UsageError
from scenarios import _triton
from tritoncapi import Place, cuda, gpu

from . import state

_VERSION = re.compile(r"(\d+)\.(\d+)")
_SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Needs:
    """The marker's arguments."""

    gpus: int = 0
    backend: str = ""
    api: str = ""
    shm: int = 0  # bytes
    isolated: bool = False
    timeout: float = 300.0  # seconds, for an isolated test

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            good = isinstance(value, (int, float) if kind is float else kind)
            if not good or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{field.name}={value!r}: it is {_WORDS[kind]}")
        if self.api and not _VERSION.fullmatch(self.api):
            raise ValueError(f"api={self.api!r}: it is the C API's version as text, '1.33'")
        if self.gpus < 0 or self.shm < 0 or not self.timeout > 0:
            raise ValueError("gpus and shm must not be below 0, and timeout must be above")


_WORDS = {int: "a whole number", str: "a text", bool: "True or False", float: "a number"}


def of(item: pytest.Item) -> list[Needs]:
    """The needs of an item, one for each marker. Raises ValueError for a marker that cannot be read."""
    found = []
    known = {field.name for field in fields(Needs)}
    for mark in item.iter_markers("triton"):
        if mark.args:
            raise ValueError(f"its arguments are given by name: gpus=1, not {mark.args[0]!r}")
        if wrong := set(mark.kwargs) - known:
            raise ValueError(f"it has no argument {', '.join(sorted(wrong))}; it has {', '.join(sorted(known))}")
        found.append(Needs(**mark.kwargs))
    return found


def check(item: pytest.Item) -> None:
    """Skips an item whose needs are not met, with the reason; fails one whose marker cannot be read."""
    needed, wrong = [], ""
    try:
        needed = of(item)
    except ValueError as error:
        wrong = f"@pytest.mark.triton: {error}"
    if wrong:
        pytest.fail(wrong, pytrace=False)
    process = state.of(item.config)
    for needs in needed:
        if reason := process.lack() or _lack(needs, process):
            raise pytest.skip.Exception(reason, _use_item_location=True)


def _lack(needs: Needs, process: state.State) -> str:
    """What is missing, or nothing."""
    if needs.gpus and (count := cuda.device_count()) < needs.gpus:
        have = f"this machine has {count}" if count else _triton.no_cuda_reason()
        return f"needs {needs.gpus} GPU{'s' if needs.gpus > 1 else ''}: {have}"
    if needs.shm:
        free = shutil.disk_usage(_SHM).free if _SHM.is_dir() else 0
        if free < needs.shm:
            return f"needs {needs.shm >> 20} MiB of /dev/shm: {free >> 20} MiB are free"
    if not (needs.backend or needs.api):
        return ""
    library = process.library()
    if needs.api:
        match = _VERSION.fullmatch(needs.api)
        assert match is not None
        if library.api_version < (int(match[1]), int(match[2])):
            have = ".".join(map(str, library.api_version))
            return f"needs C API {needs.api}: that of {library.triton.library} is {have}"
    if needs.backend == "python":
        try:
            _triton.require_python_backend(library)
        except (LacksError, UsageError) as error:
            return f"needs the Python backend: {error}"
    elif needs.backend:
        folder = library.triton.backends / needs.backend
        if not (folder / f"libtriton_{needs.backend}.so").exists():
            return f"needs the backend {needs.backend}: this Triton has none ({folder})"
    return ""


def places() -> list[Any]:
    """The places of this machine, as pytest's parameters; those that need a GPU are skipped where there is none."""
    count = cuda.device_count()
    names = ["cpu", "pinned", *(str(gpu(device)) for device in range(max(count, 1)))]
    if count:
        return [pytest.param(name, id=name) for name in names]
    skip = pytest.mark.skip(reason=f"needs a GPU: {_triton.no_cuda_reason()}")
    return [pytest.param(name, id=name, marks=() if name == "cpu" else skip) for name in names]


def place(given: Any) -> Place:
    """The place that a parameter names; skips the test where the machine does not have it."""
    found = given if isinstance(given, Place) else Place.parse(str(given))
    try:
        _triton.require_places({str(found): found})
    except LacksError as error:
        pytest.skip(str(error))
    return found
