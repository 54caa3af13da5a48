"""The system under test: a real server as a scenario's child starts it, and what the machine must have for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import model_repos
from harness.errors import LacksError, UsageError
from harness.journal import Journal
from tritoncapi import MemoryType, Place, ServerOptions, cuda, load
from tritoncapi._library import Library, python_library
from tritoncapi._locate import STUB
from tritoncapi.errors import LibraryError, NoTritonError

_PLAIN_PATH = re.compile(r"[\w./+,:@%=~-]*")
SHM_NEEDED = 16 << 20  # bytes of /dev/shm that a Python model's first instance and its messages need


def open_library(path: str | None, journal: Journal) -> Library:
    """Loads the Triton to test and writes down which one. Raises UsageError for a wrong path, LacksError for none."""
    journal.phase("loading libtritonserver")
    library = load_or_explain(path)
    triton = library.triton
    journal.write("library", path=str(triton.library), why=triton.why, api=list(library.api_version))
    return library


def load_or_explain(path: str | None) -> Library:
    """Loads a Triton. Raises UsageError for a wrong path, LacksError where there is none at all."""
    try:
        return load(path)
    except NoTritonError as error:
        raise LacksError(str(error)) from error
    except LibraryError as error:
        raise UsageError(str(error)) from error


def require_places(needed: Mapping[str, Place]) -> None:
    """Raises LacksError for pinned memory or GPUs that this machine does not have; keys say what needs them."""
    needed = {what: place for what, place in needed.items() if place.memory_type != MemoryType.CPU}
    if not needed:
        return
    count = cuda.device_count()
    for what, place in needed.items():
        if count == 0:
            raise LacksError(f"{what} needs a CUDA device: {no_cuda_reason()}")
        if place.memory_type == MemoryType.GPU and place.device >= count:
            have = "only GPU 0" if count == 1 else f"only GPUs 0 to {count - 1}"
            raise LacksError(f"{what} needs GPU {place.device}: this machine has {have}")


def no_cuda_reason() -> str:
    """Why there is no CUDA here, in the driver's words."""
    try:
        cuda.driver()
    except Exception as error:  # whatever keeps CUDA from starting is the reason
        return str(error)
    return "no CUDA device was found"


def is_python_model(folder: Path) -> bool:
    """Whether a model's folder says that the Python backend runs it."""
    try:
        config = (folder / "config.pbtxt").read_text()
    except (OSError, UnicodeDecodeError):
        return (folder / "1" / "model.py").exists()
    return bool(re.search(r"""^\s*backend\s*:\s*["']python["']""", config, re.MULTILINE))


def require_python_backend(library: Library, repository: Path | None = None) -> None:
    """Raises LacksError when the Python backend cannot work here: no stub, no libpython, NumPy 2, little /dev/shm.

    Raises UsageError for paths that it cannot take: it gives the stub's to a shell unquoted, and splits the model's.
    """
    backend = library.triton.backends / "python"
    for what, path in (("Triton's root", library.triton.root), ("the model's place", repository)):
        if path is not None and not _PLAIN_PATH.fullmatch(str(path)):
            raise UsageError(f"{what} is {path}: the Python backend hangs or aborts on spaces and the like")
    if not (backend / "libtriton_python.so").exists():
        raise LacksError(f"this Triton has no Python backend ({backend})")
    stub = backend / STUB
    if not stub.exists():
        raise LacksError(f"the Python backend has no {STUB} for this interpreter ({backend})")
    missing = missing_libraries(stub)
    if missing:
        raise LacksError(f"the Python backend's stub cannot start: {', '.join(missing)} not found")
    version = stub_numpy_version()
    if version is None:
        raise LacksError("the stub's interpreter (the first python3 on PATH) has no NumPy: pip install 'numpy<2' there")
    if int(version.split(".")[0]) >= 2 and not stub_knows_numpy2(stub):
        raise LacksError(
            f"the stub's interpreter has NumPy {version} and this Python backend was built for NumPy 1: every output "
            "would come back empty; pip install 'numpy<2' there"
        )
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if free < SHM_NEEDED:
        raise LacksError(
            f"/dev/shm has {free >> 20} MiB free and a Python model instance needs {SHM_NEEDED >> 20} MiB: "
            "enlarge it (docker run --shm-size=1g)"
        )


def missing_libraries(program: Path) -> list[str]:
    """Shared libraries that the dynamic linker would not find for a program."""
    try:
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []  # no ldd: the load itself will tell
    return [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]


def stub_numpy_version() -> str | None:
    """NumPy's version in the interpreter whose packages the stubs import: the first python3 on PATH."""
    python = shutil.which("python3")
    if python is None:
        return None
    code = "import importlib.metadata as m; print(m.version('numpy'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or None


def stub_knows_numpy2(stub: Path) -> bool:
    """Whether the stub looks for NumPy 2's core module too; one built against NumPy 1 only does not."""
    return b"numpy._core" in stub.read_bytes()


def server_options(folder: Path, library: Library, shm_prefix: str, **settings: Any) -> ServerOptions:
    """Options of a scenario's server: log in the run's folder, the test backend beside Triton's own."""
    backend_config = {"python": {"shm-region-prefix-name": shm_prefix}} if shm_prefix else {}
    # The thread that refreshes GPU and CPU gauges sleeps a second at a time, and the process's end waits for it.
    settings = {"gpu_metrics": False, "cpu_metrics": False, **settings}
    return ServerOptions(
        log_file=folder / "triton.log",
        backend_directory=model_repos.backend_directory(folder / "backends", library.triton.backends),
        backend_config=backend_config,
        **settings,
    )


def libpython_note() -> str:
    """Where the stub's libpython is, for reports."""
    path = python_library()
    return str(path) if path else "from the dynamic linker's cache"
