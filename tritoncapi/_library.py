"""Loads libtritonserver, once in a process."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import sysconfig
import threading
from pathlib import Path

from ._bindings import API_MAJOR, PREFIX, Functions
from ._elf import check_whole
from ._locate import Triton, find
from ._native import Native
from .errors import LibraryError, NotATritonError

_MISSING = re.compile(r"(\S+): cannot open shared object file")
_lock = threading.Lock()
_loaded: Library | None = None


class Library:
    """A loaded libtritonserver: its functions (``api``), the native part, and where it came from."""

    def __init__(self, triton: Triton) -> None:
        self.triton = triton
        self.dll = _open(triton.library)
        self.api_version = _api_version(self.dll, triton.library)
        self.api = Functions(self.dll)
        self.native = Native(self.dll)

    def __repr__(self) -> str:
        major, minor = self.api_version
        return f"<Library {self.triton.library} (C API {major}.{minor})>"


def load(path: str | os.PathLike[str] | None = None) -> Library:
    """The process's Triton; loads it on the first call (``TRITONSERVER_ApiVersion`` is checked).

    A process can hold one Triton: its backends bind to the first one's symbols. Without ``path`` the one that is loaded
    is returned, whichever it is. Raises LibraryError for a second, different one; NotATritonError for a wrong path.
    """
    global _loaded  # noqa: PLW0603 - the dynamic loader's state is per process too
    with _lock:
        if _loaded is not None and path is None:
            return _loaded
        triton = find(path)
        if _loaded is None:
            _prepare_environment(triton)
            _loaded = Library(triton)
        elif not _loaded.triton.library.samefile(triton.library):
            raise LibraryError(
                f"{triton.library} cannot be loaded: this process already uses the Triton in {_loaded.triton.library}"
            )
        return _loaded


def _open(path: Path) -> ctypes.CDLL:
    """Opens the library for all to see: a backend that is not linked to it finds its symbols only so."""
    check_whole(path)
    tried: set[str] = set()
    while True:
        try:
            return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            # The wheel's library does not look for its siblings beside itself: open the one it misses, and try again.
            match = _MISSING.search(str(error))
            sibling = path.resolve().parent / match[1] if match else None
            if sibling is None or not sibling.exists() or sibling.name in tried:
                raise NotATritonError(f"{path} cannot be loaded: {error}") from error
            tried.add(sibling.name)
            _open(sibling)


def _api_version(dll: ctypes.CDLL, path: Path) -> tuple[int, int]:
    try:
        function = dll[PREFIX + "ApiVersion"]
    except AttributeError:
        raise NotATritonError(f"{path} is a shared library, but no Triton: it has no {PREFIX}ApiVersion") from None
    major, minor = ctypes.c_uint32(), ctypes.c_uint32()
    function.restype = ctypes.c_void_p
    function(ctypes.byref(major), ctypes.byref(minor))
    if major.value != API_MAJOR:
        raise NotATritonError(
            f"{path} speaks C API {major.value}.{minor.value}; this wrapper speaks {API_MAJOR}.x: use a release of "
            "tritoncapi-harness made for it"
        )
    return major.value, minor.value


def _prepare_environment(triton: Triton) -> None:
    """What the Python backend's stubs inherit: they import from the first python3 on PATH, not from ours."""
    _put_first("PATH", Path(sys.executable).parent)
    _put_first("LD_LIBRARY_PATH", triton.library.parent)
    libpython = python_library()
    if libpython is not None:
        _put_first("LD_LIBRARY_PATH", libpython.parent)


def python_library() -> Path | None:
    """The shared libpython of this interpreter that a stub can link to, where it lies beside the interpreter."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR")
    path = Path(folder or "/") / name
    return path if path.exists() else None


def _put_first(variable: str, folder: Path) -> None:
    parts = [part for part in os.environ.get(variable, "").split(os.pathsep) if part and part != str(folder)]
    os.environ[variable] = os.pathsep.join([str(folder), *parts])
