"""Model repositories as they stand on disk, copies of their models for a run, and the native test backend."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

TEST_BACKEND = "tritoncapi_test"


def folder(name: str) -> Path:
    """The repository of this name."""
    path = next((Path(part) / name for part in __path__ if (Path(part) / name).is_dir()), None)
    if path is None:
        raise FileNotFoundError(f"model_repos has no repository {name!r}")
    return path


def backend_library() -> Path:
    """The test backend's library, built with the package."""
    for part in __path__:  # an editable install spreads the package over two folders
        path = Path(part) / "lib" / f"libtriton_{TEST_BACKEND}.so"
        if path.exists():
            return path
    raise FileNotFoundError(f"libtriton_{TEST_BACKEND}.so is not beside the package: pip, installing it, builds it")


def python_add_sub() -> Path:
    """The Python backend's model that adds and subtracts, or only hands on."""
    return folder("memalloc") / "add_sub_int32_python" / "1" / "model.py"


def copy_model(source: Path, repository: Path, append: str = "", name: str = "") -> Path:
    """Copies a model's folder into ``repository`` and appends text to its config.pbtxt; returns the copy."""
    target = repository / (name or source.name)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".keep"))
    if append:
        config = target / "config.pbtxt"
        config.write_text(config.read_text().rstrip("\n") + "\n" + append.rstrip("\n") + "\n")
    return target


def instance_group(kind: str = "KIND_CPU", *, device: int | None = None, count: int = 1, host_policy: str = "") -> str:
    """An ``instance_group`` block for a config.pbtxt."""
    fields = [f"kind: {kind}", f"count: {count}"]
    if device is not None:
        fields.append(f"gpus: [ {device} ]")
    if host_policy:
        fields.append(f"host_policy: {quote(host_policy)}")
    return "instance_group [ { " + ", ".join(fields) + " } ]\n"


def parameter(key: str, value: object) -> str:
    """A ``parameters`` entry for a config.pbtxt; Triton's parameters are strings."""
    return f"parameters {{ key: {quote(key)}, value {{ string_value: {quote(str(value))} }} }}\n"


def quote(text: str) -> str:
    """A protobuf text string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def backend_directory(target: Path, backends: Path | None) -> Path:
    """Makes ``target`` a backend directory with links to a Triton's own backends and to the test backend."""
    target.mkdir(parents=True, exist_ok=True)
    found: Iterable[Path] = backends.iterdir() if backends is not None and backends.is_dir() else ()
    for entry in found:
        if entry.is_dir() and entry.name != TEST_BACKEND:
            (target / entry.name).symlink_to(entry.resolve())
    own = target / TEST_BACKEND
    own.mkdir()
    library = backend_library()
    (own / library.name).symlink_to(library)
    return target
