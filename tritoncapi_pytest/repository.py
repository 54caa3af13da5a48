"""A test's model repository, and the backends that serve it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import model_repos

PathLike = str | os.PathLike[str]


class Repository(os.PathLike[str]):
    """An empty model repository (``path``) with a backend directory (``backends``), both gone with pytest's folders.

    ``backends`` has links to Triton's own backends and to the test backend.
    """

    def __init__(self, folder: Path, backends: Path) -> None:
        self.path = folder / "models"
        self.path.mkdir()
        self.backends = model_repos.backend_directory(folder / "backends", backends)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Repository {self.path}: {', '.join(self.models) or 'empty'}>"

    @property
    def models(self) -> list[str]:
        """The names of its models."""
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())

    def add(
        self,
        folder: PathLike,
        name: str = "",
        *,
        backend: PathLike | None = None,
        append: str = "",
        **parameters: object,
    ) -> str:
        """Copies a model's folder into the repository and returns the model's name (default: the folder's).

        ``backend``: its backend's library, or a folder with it (see ``add_backend``). ``append`` is text for the end of
        its config.pbtxt, ``parameters`` are parameters of the model there. FileNotFoundError for what is not there.
        """
        __tracebackhide__ = True
        source = Path(folder).expanduser()
        if not source.is_dir():
            raise FileNotFoundError(f"there is no model's folder {source.absolute()}")
        if backend is not None:
            self.add_backend(backend)
        name = name or source.resolve().name
        self._check_new(name)
        copy = model_repos.copy_model(source, self.path, name=name)
        if more := _text(append, parameters):
            with (copy / "config.pbtxt").open("a") as config:
                config.write(more)
        if not any(entry.is_dir() for entry in copy.iterdir()):
            (copy / "1").mkdir()  # version control keeps no empty folder
        return name

    def add_config(
        self,
        name: str,
        config: str,
        files: Mapping[str, str | bytes] | None = None,
        *,
        backend: PathLike | None = None,
        versions: Sequence[int] = (1,),
        **parameters: object,
    ) -> str:
        """Writes a model of this config.pbtxt and returns its name; ``files``: ``{"1/model.py": text}``."""
        __tracebackhide__ = True
        if backend is not None:
            self.add_backend(backend)
        self._check_new(name)
        folder = self.path / name
        for relative in (".", *(files or {})):
            if Path(relative).is_absolute() or ".." in Path(name, relative).parts:
                raise ValueError(f"{name}: {relative}: that is not in the model's folder")
        for version in versions:
            (folder / str(version)).mkdir(parents=True)
        for relative, content in {"config.pbtxt": config + _text("", parameters), **(files or {})}.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def add_backend(self, path: PathLike) -> str:
        """Makes a backend known and returns its name: a ``libtriton_<name>.so``, or a folder that has one.

        It takes the place of one of Triton's own of that name. FileNotFoundError, or ValueError for another file.
        """
        __tracebackhide__ = True
        given = Path(path).expanduser().absolute()
        if not given.exists():
            raise FileNotFoundError(f"there is no backend {given}")
        found = sorted(given.glob("libtriton_*.so")) if given.is_dir() else [given]
        if len(found) != 1:
            have = ", ".join(one.name for one in found) or "none"
            raise ValueError(f"{given} must have one libtriton_<name>.so, the backend; it has {have}")
        library = found[0]
        name = library.name.removeprefix("libtriton_").removesuffix(".so")
        if library.name != f"libtriton_{name}.so" or not name:
            raise ValueError(f"{library}: Triton finds a backend by its file's name, libtriton_<name>.so")
        target = self.backends / name
        if target.is_symlink():
            target.unlink()
        elif target.exists():
            shutil.rmtree(target)
        if given.is_dir():
            target.symlink_to(given)
        else:
            target.mkdir()
            (target / library.name).symlink_to(library)
        return name

    def _check_new(self, name: str) -> None:
        __tracebackhide__ = True
        if (self.path / name).exists():
            raise FileExistsError(f"this repository already has a model {name!r}; give another name")


def _text(append: str, parameters: Mapping[str, object]) -> str:
    """What is added to a configuration, whose last line may have no end."""
    lines = [append, *(model_repos.parameter(key, value) for key, value in parameters.items())]
    return "".join(f"\n{line}" for line in lines if line)
