"""A server with some of the shipped models, the same for every benchmark that sends requests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import model_repos
from tritoncapi import Server, ServerOptions, load


@contextmanager
def running(
    instances: Mapping[str, int], *, gpu: int | None = None, elements: int = 16, max_batch: int = 8, extra: str = ""
) -> Iterator[tuple[Server, Path]]:
    """A server with these models (name -> instances), on the CPU or on ``gpu``; and the folder with its ``repository``
    and ``backends``. Tensors have ``elements`` elements; ``extra`` is added to the configurations.
    """
    library = load()
    with tempfile.TemporaryDirectory(prefix="tritoncapi-bench-") as name:
        folder = Path(name)
        (folder / "repository").mkdir()
        for model, count in instances.items():
            source = model_repos.folder("memalloc") / model
            kind = "KIND_CPU" if gpu is None else "KIND_GPU"
            group = model_repos.instance_group(kind, device=gpu, count=count)
            config = model_repos.copy_model(source, folder / "repository", group + extra) / "config.pbtxt"
            config.write_text(
                config.read_text()
                .replace("dims: [ 16 ]", f"dims: [ {elements} ]")
                .replace("size: 8", f"size: {max_batch}")
            )
        backends = model_repos.backend_directory(folder / "backends", library.triton.backends)
        options = ServerOptions(
            model_repository=folder / "repository",
            backend_directory=backends,
            log_info=False,
            log_warn=False,
            log_error=False,
            gpu_metrics=False,
            cpu_metrics=False,
        )
        with Server(options) as server:
            for model in instances:
                server.load(model)
            yield server, folder
