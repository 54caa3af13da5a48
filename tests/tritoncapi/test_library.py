"""Finding and loading a Triton: what is taken, what is refused, and how that is said."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import tritoncapi as tc
from tritoncapi import _elf, _library, _locate
from tritoncapi.errors import LibraryError, NotATritonError

X86, ARM = 62, 183
OURS = {"x86_64": X86, "aarch64": ARM}


def elf(machine: int, kind: int = 3, big_endian: bool = False) -> bytes:
    """The first bytes of an ELF file."""
    order = ">" if big_endian else "<"
    return (
        b"\x7fELF\x02"
        + (b"\x02" if big_endian else b"\x01")
        + b"\x01"
        + bytes(9)
        + struct.pack(order + "HH", kind, machine)
    )


needs_wheel = pytest.mark.skipif(not list(_locate._sites()), reason="the wheel nvidia-pytriton is not installed")


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Triton anywhere."""
    monkeypatch.delenv(_locate.ENVIRONMENT, raising=False)
    monkeypatch.setattr(_locate, "CONTAINER_ROOT", tmp_path / "no-container")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "no-site")])


def root_of(folder: Path) -> Path:
    """A root with something that passes for a library of this machine."""
    library = folder / "lib" / "libtritonserver.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(elf(OURS[os.uname().machine]))
    return folder


# Where it is looked for


def test_the_order(nothing: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"no Triton found: give .* set \$TRITONCAPI_TRITON, .* container, or pip"):
        tc.find()

    site = tmp_path / "site"
    shutil.copytree(_fake_wheel(tmp_path / "wheel"), site, symlinks=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "no-site"), str(site)])
    wheel = tc.find()
    assert (wheel.source, "wheel nvidia-pytriton 1.2.3" in wheel.why) == ("wheel", True)

    container = root_of(tmp_path / "container")
    monkeypatch.setattr(_locate, "CONTAINER_ROOT", container)
    assert (tc.find().source, tc.find().root) == ("container", container)

    environment = root_of(tmp_path / "environment")
    monkeypatch.setenv(_locate.ENVIRONMENT, str(environment))
    assert (tc.find().source, tc.find().root) == ("environment", environment)
    assert str(environment) in tc.find().why

    given = root_of(tmp_path / "given")
    found = tc.find(given)
    assert (found.source, found.root) == ("path", given)
    assert found.library == given / "lib" / "libtritonserver.so"
    assert (found.backends, found.caches, found.repoagents) == tuple(
        given / name for name in ("backends", "caches", "repoagents")
    )


def _fake_wheel(site: Path) -> Path:
    libraries, triton = site / "nvidia_pytriton.libs", site / "pytriton" / "tritonserver"
    libraries.mkdir(parents=True)
    (libraries / "libtritonserver-0123.so").write_bytes(elf(OURS[os.uname().machine]))
    (libraries / "libother-4567.so").write_bytes(b"")
    for folder in ("backends/python", "caches/local", "python_backend_stubs"):
        (triton / folder).mkdir(parents=True)
    (triton / "backends/python/libtriton_python.so").write_bytes(b"")
    (triton / "caches/local/libtritoncache_local.so").write_bytes(b"")
    (site / "nvidia_pytriton-1.2.3.dist-info").mkdir()
    return site


def test_an_empty_variable_counts_as_none(nothing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_locate.ENVIRONMENT, "")
    with pytest.raises(LibraryError, match="no Triton found"):
        tc.find()


@pytest.mark.parametrize("where", ["", "lib", "lib/libtritonserver.so"])
def test_a_path_is_a_root_its_lib_folder_or_the_library(tmp_path: Path, where: str) -> None:
    root = root_of(tmp_path / "triton")
    found = tc.find(root / where)
    assert (found.root, found.library) == (root, root / "lib" / "libtritonserver.so")


def test_a_library_that_lies_flat_or_in_lib64(tmp_path: Path) -> None:
    flat = tmp_path / "libtritonserver.so"
    flat.write_bytes(elf(OURS[os.uname().machine]))
    assert tc.find(tmp_path).library == tc.find(flat).library == flat
    wide = tmp_path / "wide"
    root_of(wide)
    (wide / "lib").rename(wide / "lib64")
    assert tc.find(wide).library == wide / "lib64" / "libtritonserver.so"


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root_of(tmp_path / "triton")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tc.find("~/triton").root == tmp_path / "triton"


# What is refused


@pytest.mark.parametrize("source", ["argument", "variable"])
def test_a_missing_path(nothing: None, monkeypatch: pytest.MonkeyPatch, source: str, tmp_path: Path) -> None:
    path = tmp_path / "gone"
    monkeypatch.setenv(_locate.ENVIRONMENT, str(path))
    with pytest.raises(NotATritonError, match=r"gone \(.*\) does not exist") as caught:
        tc.find(path if source == "argument" else None)
    assert ("$TRITONCAPI_TRITON is" in str(caught.value)) == (source == "variable")


def test_a_folder_without_the_library(tmp_path: Path) -> None:
    with pytest.raises(NotATritonError, match=r"holds no Triton: there is no lib/libtritonserver\.so in it"):
        tc.find(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no shared library .not an ELF file."),
        (b"\x7fELF", "is no shared library .not an ELF file."),
        (b"GROUP ( libtritonserver.so.2 )\n", "is no shared library .not an ELF file."),
        (elf(X86, kind=2), r"is no shared library \(ELF type 2\)"),
        (elf(3), "is built for i386, this machine is"),
        (elf(22, big_endian=True), "is built for machine 22, this machine is"),
        (elf(ARM if os.uname().machine == "x86_64" else X86), "is built for (aarch64|x86_64), this machine is"),
    ],
)
def test_a_file_that_is_no_library_of_this_machine(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "libtritonserver.so"
    path.write_bytes(content)
    for given in (path, tmp_path):
        with pytest.raises(NotATritonError, match=message):
            tc.find(given)


@needs_wheel
@pytest.mark.parametrize(
    ("keep", "zeros", "message"),
    [
        (63, False, "is cut short .63 of 64 bytes or more."),
        (4096, False, "is cut short .4096 of [0-9]+ bytes or more.; copy or install it again"),
        (20_000_000, False, "is cut short"),
        (40, True, "is damaged .its ELF header describes no segments."),
        (4096, True, "is damaged .zeros in place of its tables."),
        (31_000_000, True, "is damaged .zeros in place of its tables."),
    ],
)
def test_a_damaged_library_is_not_given_to_the_loader(tmp_path: Path, keep: int, zeros: bool, message: str) -> None:
    whole = next(next(_locate._sites()).glob("nvidia_pytriton.libs/libtritonserver-*.so"))
    size = whole.stat().st_size
    assert size > keep
    _elf.check_whole(whole)
    path = tmp_path / "libtritonserver.so"
    with whole.open("rb") as file:
        path.write_bytes(file.read(keep))
    if zeros:
        os.truncate(path, size)
    with pytest.raises(NotATritonError, match=message):
        _library._open(path)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "libtritonserver.so"
    path.write_bytes(b"")

    def refuse(*_arguments: object, **_settings: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NotATritonError, match="cannot be read: Permission denied"):
        tc.find(path)


LOAD = """
import sys, tritoncapi as tc
from tritoncapi.errors import Error
try:
    library = tc.load(sys.argv[1])
except Error as error:
    print(type(error).__name__, error)
else:
    print(library)
"""


def test_a_torn_library(child: Any, tmp_path: Path) -> None:
    path = tmp_path / "libtritonserver.so"
    path.write_bytes(elf(OURS[os.uname().machine]) + bytes(100))
    assert "NotATritonError" in child(LOAD, path)
    assert "is damaged" in child(LOAD, path)


def test_another_shared_library(child: Any, tmp_path: Path) -> None:
    import _ctypes

    other = Path(_ctypes.__file__)
    path = tmp_path / "libtritonserver.so"
    path.symlink_to(other)
    assert "is a shared library, but no Triton: it has no TRITONSERVER_ApiVersion" in child(LOAD, path)


FAKE = """
#include <stddef.h>
#include <stdint.h>
void *TRITONSERVER_ApiVersion(uint32_t *major, uint32_t *minor) {{ *major = {major}; *minor = {minor}; return NULL; }}
{more}
"""
SOURCE = Path(__file__).parents[2] / "tritoncapi" / "native" / "triton.c"
NATIVE_NEEDS = re.findall(r"ROW\((\w+)\),", SOURCE.read_text())


def compile_fake(folder: Path, major: int, minor: int, functions: list[str]) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here to make a library of another version with")
    more = "".join(f"void *TRITONSERVER_{name}(void) {{ return NULL; }}\n" for name in functions)
    (folder / "fake.c").write_text(FAKE.format(major=major, minor=minor, more=more))
    path = folder / "libtritonserver.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, folder / "fake.c"], check=True)
    return path


def test_another_major_version(child: Any, tmp_path: Path) -> None:
    path = compile_fake(tmp_path, 2, 0, NATIVE_NEEDS)
    assert "speaks C API 2.0; this wrapper speaks 1.x" in child(LOAD, path)


def test_an_older_api_loads_and_a_missing_function_says_what_it_needs(child: Any, tmp_path: Path) -> None:
    path = compile_fake(tmp_path, 1, 17, NATIVE_NEEDS)
    source = """
import sys, tritoncapi as tc
from tritoncapi.errors import MissingFunctionError
library = tc.load(sys.argv[1])
print(library.api_version, len(library.api.missing), "ServerInferAsync" in library.api.missing)
for name in ("MetricObserve", "ServerStop"):
    try:
        getattr(library.api, name)(None, 1.0)
    except MissingFunctionError as error:
        print(error)
"""
    out = child(source, path)
    assert out.splitlines() == [
        f"(1, 17) {171 - len(NATIVE_NEEDS)} False",
        "TRITONSERVER_MetricObserve is not in the loaded libtritonserver: it needs C API 1.34 or newer",
        "TRITONSERVER_ServerStop is not in the loaded libtritonserver: it needs C API 1.17 or newer",
    ]


def test_a_library_without_inference_is_refused(child: Any, tmp_path: Path) -> None:
    path = compile_fake(tmp_path, 1, 34, ["ErrorNew"])
    assert "the library has no TRITONSERVER_InferenceRequestSetReleaseCallback" in child(LOAD, path)


# Loading


def test_loading_twice_gives_one_library(library: tc.Library) -> None:
    assert tc.load() is library
    assert tc.load(library.triton.library) is library
    assert tc.load(library.triton.root) is library
    assert str(library.triton.library) in repr(library)
    assert "C API 1." in repr(library)


def test_eight_threads_load_one_library(child: Any) -> None:
    source = """
import threading, tritoncapi as tc
barrier, found = threading.Barrier(8), []
def load():
    barrier.wait(20)
    found.append(tc.load())
threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(50)
print(len(found), len(set(map(id, found))))
"""
    assert child(source).split() == ["8", "1"]


def test_a_second_triton_is_refused(library: tc.Library, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "lib"
    copy.mkdir(parents=True)
    shutil.copy(library.triton.library, copy / "libtritonserver.so")  # the file itself, not the link
    with pytest.raises(LibraryError, match="cannot be loaded: this process already uses the Triton in"):
        tc.load(tmp_path / "copy")
    link = tmp_path / "link" / "lib"
    link.mkdir(parents=True)
    (link / "libtritonserver.so").symlink_to(library.triton.library)
    assert tc.load(tmp_path / "link") is library


def test_a_wrong_path_after_loading(library: tc.Library, tmp_path: Path) -> None:
    with pytest.raises(NotATritonError):
        tc.load(tmp_path)
    assert tc.load() is library


def test_the_environment_of_the_stubs(library: tc.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/first{os.pathsep}/second")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    for _ in range(2):  # again changes nothing
        _library._prepare_environment(library.triton)
    assert os.environ["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/first", "/second"]
    folders = os.environ["LD_LIBRARY_PATH"].split(os.pathsep)
    assert str(library.triton.library.parent) in folders
    python = _library.python_library()
    assert python is None or str(python.parent) == folders[0]
    assert len(folders) == len(set(folders))


def test_the_environment_is_set_by_loading(child: Any) -> None:
    source = """
import os, sys, tritoncapi as tc
from pathlib import Path
library = tc.load()
print(os.environ["PATH"].split(":")[0] == str(Path(sys.executable).parent))
print(str(library.triton.library.parent) in os.environ["LD_LIBRARY_PATH"].split(":"))
"""
    assert child(source, LD_LIBRARY_PATH="").split() == ["True", "True"]


# The root that is assembled for the wheel

FIND = """
import tritoncapi as tc
from tritoncapi import _locate
_locate.CONTAINER_ROOT = _locate.Path("/nowhere")
print(tc.find().root)
"""


def assembled(child: Any, cache: Path, source: str = FIND) -> Path:
    return Path(child(source, XDG_CACHE_HOME=str(cache), TRITONCAPI_TRITON="").strip())


@needs_wheel
def test_the_assembled_root(child: Any, tmp_path: Path) -> None:
    root = assembled(child, tmp_path)
    assert root.is_relative_to(tmp_path / "tritoncapi")
    assert (root / "lib" / "libtritonserver.so").exists()
    assert {path.name for path in (root / "backends" / "python").iterdir()} >= {
        *("libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py")
    }
    assert (root / "caches" / "local" / "libtritoncache_local.so").exists()
    assert (root / "repoagents").is_dir()
    assert all(path.exists() for path in root.rglob("*")), "a link leads nowhere"
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    assert assembled(child, tmp_path) == root
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before, "it was assembled again"


@needs_wheel
def test_several_processes_assemble_at_once(child: Any, tmp_path: Path) -> None:
    source = FIND.replace("print(", "_locate.check_elf(tc.find().library); print(")
    settings = {"XDG_CACHE_HOME": str(tmp_path), "TRITONCAPI_TRITON": ""}
    processes = [child.start(source, **settings) for _ in range(6)]
    results = [child.finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0] * 6, results
    assert len({out for _, out, _ in results}) == 1
    assert len(list((tmp_path / "tritoncapi").iterdir())) == 1, "something was left over"


@needs_wheel
@pytest.mark.parametrize("processes", [1, 6])
def test_a_root_whose_links_lead_nowhere_is_assembled_again(child: Any, tmp_path: Path, processes: int) -> None:
    root = assembled(child, tmp_path)
    library = root / "lib" / "libtritonserver.so"
    library.unlink()
    library.symlink_to(tmp_path / "gone")
    settings = {"XDG_CACHE_HOME": str(tmp_path), "TRITONCAPI_TRITON": ""}
    running = [child.start(FIND, **settings) for _ in range(processes)]
    results = [child.finish(process) for process in running]
    assert [code for code, _, _ in results] == [0] * processes, results
    assert library.exists()


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "below"))
    monkeypatch.setattr(_locate, "_TEMPORARY", tmp_path / "temporary")
    folder = _locate.cache_directory()
    assert folder.parent == tmp_path / "temporary"
    assert folder.stat().st_mode & 0o077 == 0
    assert _locate.cache_directory() == folder


def test_a_read_only_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _locate.cache_directory() == tmp_path / "cache" / "tritoncapi"
    monkeypatch.setattr(_locate, "_TEMPORARY", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _mode: "cache" not in str(path).removeprefix(str(tmp_path)))
    assert _locate.cache_directory() == tmp_path / f"tritoncapi-{os.getuid()}"
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(LibraryError, match="set XDG_CACHE_HOME"):
        _locate.cache_directory()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(_locate, "_TEMPORARY", tmp_path)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert _locate.cache_directory().parent == tmp_path


def test_eight_threads_get_one_dispatcher(library: tc.Library) -> None:
    from tritoncapi.dispatcher import dispatcher

    barrier = threading.Barrier(8)
    found = []

    def get() -> None:
        barrier.wait(10)
        found.append(dispatcher(library))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_the_library_is_visible_to_backends(library: tc.Library) -> None:
    # A backend that is not linked to libtritonserver finds its symbols only where it was opened RTLD_GLOBAL.
    assert ctypes.CDLL(None).TRITONBACKEND_ApiVersion
