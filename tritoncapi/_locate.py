"""Which Triton: an explicit path, the environment, a container's, or the one in the ``nvidia-pytriton`` wheel."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ._elf import check_elf
from .errors import LibraryError, NotATritonError, NoTritonError

ENVIRONMENT = "TRITONCAPI_TRITON"
CONTAINER_ROOT = Path("/opt/tritonserver")
LIBRARY = "libtritonserver.so"
SERVER = "tritonserver"
STUB = "triton_python_backend_stub"
_TEMPORARY = Path("/tmp")


@dataclass(frozen=True)
class Triton:
    """One Triton on disk. ``root`` holds lib/, backends/, caches/; ``why`` says how it came to be chosen."""

    library: Path
    root: Path
    source: str
    why: str

    @property
    def backends(self) -> Path:
        """The directory with one folder a backend."""
        return self.root / "backends"

    @property
    def caches(self) -> Path:
        """The directory with one folder a response cache."""
        return self.root / "caches"

    @property
    def repoagents(self) -> Path:
        """The directory with one folder a repository agent."""
        return self.root / "repoagents"

    @property
    def server(self) -> Path | None:
        """The program ``tritonserver`` (HTTP, gRPC); None where this Triton comes without it."""
        path = self.root / "bin" / SERVER
        return path if path.exists() else None


def find(path: str | os.PathLike[str] | None = None) -> Triton:
    """The Triton to use: ``path``, else $TRITONCAPI_TRITON, else /opt/tritonserver, else the installed wheel.

    A path is a library file or a root directory (with lib/libtritonserver.so). Raises NotATritonError when an explicit
    path holds none, NoTritonError when there is none at all.
    """
    if path is not None:
        return _at(Path(path), "path", f"given as {path}")
    from_environment = os.environ.get(ENVIRONMENT)
    if from_environment:
        return _at(Path(from_environment), "environment", f"${ENVIRONMENT} is {from_environment}")
    if (CONTAINER_ROOT / "lib" / LIBRARY).exists():
        return _at(CONTAINER_ROOT, "container", f"{CONTAINER_ROOT}; no --triton, no ${ENVIRONMENT}")
    for site in _sites():
        return _from_wheel(site)
    raise NoTritonError(
        f"no Triton found: give --triton PATH, set ${ENVIRONMENT}, run in a Triton container, "
        "or pip install 'tritoncapi-harness[server]' (Python 3.12 at most)"
    )


def _at(path: Path, source: str, why: str) -> Triton:
    if path == Path():
        raise NotATritonError(f"an empty path ({why}) names no Triton")
    path = path.expanduser()
    if not path.exists():
        raise NotATritonError(f"{path} ({why}) does not exist")
    if path.is_file():
        check_elf(path)
        folder = path.absolute().parent
        root = folder.parent if folder.name in ("lib", "lib64") else folder
        return Triton(path.absolute(), root, source, why)
    for candidate in (path / "lib" / LIBRARY, path / "lib64" / LIBRARY, path / LIBRARY):
        if candidate.exists():
            check_elf(candidate)
            root = path.parent if path.name in ("lib", "lib64") else path
            return Triton(candidate.absolute(), root.absolute(), source, why)
    raise NotATritonError(f"{path} ({why}) holds no Triton: there is no lib/{LIBRARY} in it")


def _sites() -> Iterator[Path]:
    for entry in sys.path:
        site = Path(entry or ".")
        if any((site / "nvidia_pytriton.libs").glob("libtritonserver-*.so")):
            yield site


def _from_wheel(site: Path) -> Triton:
    """Assembles a root as a container has it, out of links into the wheel, once for each wheel and interpreter."""
    infos = sorted(site.glob("nvidia_pytriton-*.dist-info"))
    version = infos[-1].name.removesuffix(".dist-info").split("-")[1] if infos else "unknown"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = hashlib.sha256(str(site.resolve()).encode()).hexdigest()[:10]
    base = cache_directory() / f"pytriton-{version}-py{python}-{place}"
    root = base / "opt" / "tritonserver"
    why = f"the wheel nvidia-pytriton {version}; no --triton, no ${ENVIRONMENT}, no {CONTAINER_ROOT}"
    if not (root / "lib" / LIBRARY).exists():
        _assemble(site, python, base)
    _link_server(site, root)
    return Triton(root / "lib" / LIBRARY, root, "wheel", why)


def _assemble(site: Path, python: str, base: Path) -> None:
    wheel = site.resolve() / "pytriton" / "tritonserver"
    libraries = site.resolve() / "nvidia_pytriton.libs"
    base.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=base.name + ".", dir=base.parent))
    try:
        root = fresh / "opt" / "tritonserver"
        # The wheel's libraries look for their siblings four folders up, in nvidia_pytriton.libs: so it is there too.
        (fresh / "nvidia_pytriton.libs").symlink_to(libraries)
        _link_into(root / "lib", libraries.iterdir())
        (root / "lib" / LIBRARY).symlink_to(next(libraries.glob("libtritonserver-*.so")))
        for backend in (wheel / "backends").iterdir():
            _link_into(root / "backends" / backend.name, (f for f in backend.iterdir() if f.is_file()))
        stub = wheel / "python_backend_stubs" / python / STUB
        if stub.exists():
            (root / "backends" / "python" / STUB).symlink_to(stub)
        for cache in (wheel / "caches").iterdir():
            _link_into(root / "caches" / cache.name, cache.iterdir())
        (root / "repoagents").mkdir()
        _put_in_place(fresh, base)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _link_server(site: Path, root: Path) -> None:
    """Apart from the rest, since roots of earlier versions lack it."""
    program, link = site.resolve() / "pytriton" / "tritonserver" / "bin" / SERVER, root / "bin" / SERVER
    if link.exists() or not program.exists():
        return
    with suppress(OSError):  # another process was faster, or the cache cannot be written: then there is no server
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(program)


def _put_in_place(fresh: Path, base: Path) -> None:
    """Renames, so that processes that assemble the same root at once see all of one or all of the other."""
    if base.exists() and not (base / "opt" / "tritonserver" / "lib" / LIBRARY).exists():
        shutil.rmtree(base, ignore_errors=True)  # its wheel was removed; the links lead nowhere
    try:
        fresh.rename(base)
    except OSError:
        if not (base / "opt" / "tritonserver" / "lib" / LIBRARY).exists():
            raise


def _link_into(folder: Path, files: Iterator[Path]) -> None:
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file)


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/tritoncapi or ~/.cache/tritoncapi, or one of this user's in the temporary directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(base).expanduser() / "tritoncapi"  # RuntimeError: this user has no home
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    # Not TMPDIR: a run has one of its own, which must be empty when it is over.
    for parent in (_TEMPORARY, Path(tempfile.gettempdir())):
        folder = parent / f"tritoncapi-{os.getuid()}"
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
                return folder
    raise LibraryError(f"no place for a Triton: neither {base} nor {_TEMPORARY} can be written; set XDG_CACHE_HOME")
