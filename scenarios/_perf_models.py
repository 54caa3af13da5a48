"""perf's models: the user's repository, or copies of ours with the fault that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model_repos
from harness.errors import UsageError

BUILT_IN = "add_sub"
_SAME = "add_sub_int32_native"
SLOW = "slow"  # a fault of perf's own: the backend's execute_delay_ms


@dataclass(frozen=True)
class Prepared:
    """A repository, and for each side the names and weights of the models that its requests go to."""

    repository: Path
    sides: Mapping[str, Sequence[tuple[str, float]]]

    @property
    def names(self) -> list[str]:
        """All models, each once."""
        return list(dict.fromkeys(name for models in self.sides.values() for name, _ in models))


def built_in() -> list[str]:
    """The names that -m takes without -r."""
    return [BUILT_IN, *sorted(path.name for path in model_repos.folder("memalloc").iterdir() if path.is_dir())]


def prepare(options: Mapping[str, Any], side: str, folder: Path) -> Prepared:
    """The repository of a server. ``side`` is A, B, or AB for a server that has both sides' models."""
    models = [(entry["name"], float(entry["weight"])) for entry in options["models"]]
    other = options["ab_model"]
    sides: dict[str, list[tuple[str, float]]] = {name: list(models) for name in side}
    if options["repository"]:
        if other:
            sides["B"] = [(other, 1.0)]
        return Prepared(Path(options["repository"]), sides)
    repository = folder / f"repository-{side}"
    repository.mkdir()
    for name, _ in models:
        # With two sides the fault is B's.
        faulty = side == "B" if options["two_sides"] else True
        _copy(name, name, repository, options, faulty=faulty and not other)
    if other:
        taken = [name for name, _ in models]
        second = other if other not in taken else f"{other}_b"
        _copy(other, second, repository, options, faulty=True)
        sides["B"] = [(second, 1.0)]
    return Prepared(repository, sides)


def _copy(source: str, name: str, repository: Path, options: Mapping[str, Any], *, faulty: bool) -> None:
    device = next((place for place in (options["input"], options["output"]) if place.startswith("gpu:")), None)
    extra = model_repos.instance_group(
        "KIND_GPU" if device else "KIND_CPU",
        device=int(device.removeprefix("gpu:")) if device else None,
        count=options["instances"],
    )
    if source.endswith("_python"):
        extra += model_repos.parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no" if device else "yes")
    if faulty and options["fault"]:
        delay, faults = split_fault(options["fault"])
        extra += model_repos.parameter("execute_delay_ms", delay) if delay else ""
        extra += model_repos.parameter("fault", faults) if faults else ""
    path = model_repos.folder("memalloc") / (_SAME if source == BUILT_IN else source)
    model_repos.copy_model(path, repository, extra, name)


def split_fault(text: str) -> tuple[int, str]:
    """``slow:2,wrong_values`` as 2 (ms) and ``wrong_values``. Raises UsageError."""
    delay, others = 0, []
    for word in text.split(","):
        name, _, value = word.strip().partition(":")
        if name != SLOW:
            others.append(word)
        elif value.isascii() and value.isdigit() and int(value) > 0:
            delay = int(value)
        else:
            raise UsageError(f"--fault {word}: it is written {SLOW}:MILLISECONDS")
    return delay, ",".join(others)


def describe(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What inputs are made of: the model's name, its inputs, its largest batch."""
    return {
        "name": metadata["name"],
        "inputs": metadata["inputs"],
        "max_batch_size": int(config.get("max_batch_size", 0)),
        "decoupled": bool(config.get("model_transaction_policy", {}).get("decoupled", False)),
    }


def validation(options: Mapping[str, Any]) -> str:
    """How answers are checked: ``add_sub``, ``same``, or not at all."""
    if not options["repository"]:
        return "add_sub"
    return "same" if options["validate"] else ""
