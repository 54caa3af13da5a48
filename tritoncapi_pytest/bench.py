"""A test's servers and allocators: made as it asks for them, closed in the right order when it is over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from harness.errors import LacksError
from scenarios import _triton
from tritoncapi import CPU, Library, ResponseAllocator, Server, ServerOptions
from tritoncapi.allocator import Rule
from tritoncapi.errors import Error

from . import state
from .repository import PathLike, Repository

POISON = 0xAA
STOP = 10.0  # seconds that a server may take to stop
BENCH: pytest.StashKey[Bench] = pytest.StashKey()
"""The bench of a test that has one."""


class MakeServer(Protocol):
    """``triton_server``."""

    def __call__(self, repository: PathLike | Sequence[PathLike], **options: Any) -> Server:
        """A server of these ``ServerOptions``; raises what Triton says."""


class MakeAllocator(Protocol):
    """``triton_allocator``."""

    def __call__(
        self, default: Rule = CPU, tensors: Mapping[str, Rule] | None = None, **settings: Any
    ) -> ResponseAllocator:
        """An allocator; the arguments are ResponseAllocator's."""


class Bench:
    """Makes servers and allocators, and closes them."""

    def __init__(self, library: Library, shm_prefix: str) -> None:
        self.library = library
        self._shm_prefix = shm_prefix
        self._servers: list[Server] = []
        self._allocators: list[ResponseAllocator] = []

    def __repr__(self) -> str:
        return f"<Bench: {len(self._servers)} server(s), {len(self._allocators)} allocator(s)>"

    def server(self, repository: PathLike | Sequence[PathLike], **options: Any) -> Server:
        """A server; the metrics threads, at whose end a process waits up to 2 s, are off unless asked for."""
        __tracebackhide__ = True
        repositories = [repository] if isinstance(repository, (str, os.PathLike)) else list(repository)
        for one in repositories:
            self._look_at(one)
        settings: dict[str, Any] = {"gpu_metrics": False, "cpu_metrics": False, **options}
        backends = [one.backends for one in repositories if isinstance(one, Repository)]
        if backends:
            settings.setdefault("backend_directory", backends[0])
        config = {name: dict(values) for name, values in settings.get("backend_config", {}).items()}
        config.setdefault("python", {}).setdefault("shm-region-prefix-name", self._shm_prefix)
        settings["backend_config"] = config
        made = Server(ServerOptions(model_repository=repositories, **settings), library=self.library)
        self._servers.append(made)
        return made

    def allocator(
        self, default: Rule = CPU, tensors: Mapping[str, Rule] | None = None, **settings: Any
    ) -> ResponseAllocator:
        """An allocator whose new buffers hold 0xAA, unless ``poison`` says otherwise."""
        __tracebackhide__ = True
        made = ResponseAllocator(default, tensors, library=self.library, **{"poison": POISON, **settings})
        self._allocators.append(made)
        return made

    def close(self) -> list[str]:
        """Closes everything that is not closed, servers first, the newest before others; says what went wrong."""
        problems = []
        while self._servers:
            server = self._servers.pop()
            try:
                server.close(timeout=STOP)
            except Error as error:
                problems.append(str(error))
        while self._allocators:
            problems += _close(self._allocators.pop())
        return problems

    def _look_at(self, repository: PathLike) -> None:
        """Skips the test where the Python backend could not run a model: it would hang, or answer with nothing."""
        __tracebackhide__ = True
        path = Path(repository)
        for model in path.iterdir() if path.is_dir() else ():
            if _triton.is_python_model(model):
                try:
                    _triton.require_python_backend(self.library, model)
                except LacksError as error:
                    pytest.skip(f"{model.name} needs the Python backend: {error}")
                return


def _close(allocator: ResponseAllocator) -> list[str]:
    """Closes an allocator; says what became of its buffers if it was not as it should be."""
    if allocator.closed:
        return []
    counts = allocator.counts
    problems = [
        f"a response allocator: {count} buffer{'s' if count > 1 else ''} {what}"
        for count, what in (
            (counts.live, "never came back: close the responses, and drop views of them"),
            (counts.double_releases, "came back twice"),
            (counts.mismatched, "came back as another buffer, size or place than was given"),
            (counts.free_failures, "could not be freed"),
        )
        if count
    ]
    if counts.live:
        allocator.release()  # Triton still has buffers of it
    else:
        allocator.close()
    return problems


def fixture(item: pytest.Item, library: Library) -> Iterator[Bench]:
    """The fixture ``triton_bench``."""
    bench = Bench(library, state.of(item.config).shm_prefix)
    item.stash[BENCH] = bench
    yield bench
    problems = bench.close()
    if problems and item.session.exitstatus == pytest.ExitCode.INTERRUPTED:  # nobody would catch a failure now
        item.config.get_terminal_writer().line("\n" + "\n".join(problems))
    elif problems:
        pytest.fail("\n".join(problems), pytrace=False)
