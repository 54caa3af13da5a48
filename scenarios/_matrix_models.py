"""The matrix's models: which one a cell needs, and their folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import model_repos

from . import _matrix_exporters
from ._matrix_axes import ADD_SUB, EXPORTED, Cell

POLICY = "matrix"
"""The host policy of every instance. It has no settings, so that it needs no rights."""
MAX_BATCH = 7  # odd, so that a full batch of an odd size has an odd number of bytes
INPUTS = ("INPUT0", "INPUT1")
_OUTPUTS = ("OUTPUT0", "OUTPUT1")
_TORCH_OUTPUTS = ("OUTPUT__0", "OUTPUT__1")  # its backend goes by the number behind the two underscores
NATIVE, PYTHON, DLPACK = "native", "python", "dlpack"


def model_of(cell: Cell) -> str:
    """The name of the model that computes the cell."""
    return f"{cell['backend']}_{cell['type']}_{cell['model'].replace(':', '')}"


def asked_of(cell: Cell) -> str:
    """The name of the model that the cell's request names: its model, or the ensemble around it."""
    return f"ensemble_{model_of(cell)}" if cell["ensemble"] == "yes" else model_of(cell)


def outputs_of(cell: Cell) -> tuple[str, str]:
    """The names of the outputs that the request asks for."""
    return _outputs(cell["backend"]) if cell["ensemble"] == "no" else _OUTPUTS


def _outputs(backend: str) -> tuple[str, str]:
    return _TORCH_OUTPUTS if backend == "pytorch" else _OUTPUTS


def operation_of(datatype: str) -> str:
    """What the models of a datatype compute."""
    return "add_sub" if datatype in ADD_SUB else "identity"


def write_models(repository: Path, cells: Iterable[Cell], fault: str) -> None:
    """Writes the models of these cells into ``repository``; ``fault`` is planted in all native ones."""
    repository.mkdir(exist_ok=True)
    for cell in cells:
        model, asked = model_of(cell), asked_of(cell)
        if not (repository / model).exists():
            _write_model(repository / model, cell, fault if cell["backend"] == NATIVE else "")
        if not (repository / asked).exists():
            _write(repository / asked, _ensemble(model, cell))


def _write_model(folder: Path, cell: Cell, fault: str) -> None:
    backend, datatype, device = cell["backend"], cell["type"], cell["model"]
    if backend in EXPORTED:
        _write(folder, _matrix_exporters.header(backend) + _tensors(datatype, backend) + _instance(device))
        _matrix_exporters.export(backend, folder / "1", datatype, device, MAX_BATCH)
        return
    name = model_repos.TEST_BACKEND if backend == NATIVE else "python"
    text = f'backend: "{name}"\n' + _tensors(datatype) + _instance(device)
    text += model_repos.parameter("operation", operation_of(datatype))
    if backend != NATIVE:
        text += model_repos.parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no" if backend == DLPACK else "yes")
    if fault:
        text += model_repos.parameter("fault", fault)
    _write(folder, text)
    if backend != NATIVE:
        shutil.copy(model_repos.python_add_sub(), folder / "1" / "model.py")


def _write(folder: Path, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)


def _tensors(datatype: str, backend: str = NATIVE) -> str:
    kind = "TYPE_STRING" if datatype == "bytes" else f"TYPE_{datatype.upper()}"
    text = f"max_batch_size: {MAX_BATCH}\n"
    for field, names in (("input", INPUTS), ("output", _outputs(backend))):
        text += "".join(f'{field} {{ name: "{name}" data_type: {kind} dims: [ -1 ] }}\n' for name in names)
    return text


def _instance(device: str) -> str:
    kind, number = ("KIND_CPU", None) if device == "cpu" else ("KIND_GPU", int(device.partition(":")[2]))
    return model_repos.instance_group(kind, device=number, host_policy=POLICY)


def _ensemble(model: str, cell: Cell) -> str:
    own = _outputs(cell["backend"])
    pairs = [("input", name, name) for name in INPUTS]
    pairs += [("output", name, outer) for name, outer in zip(own, _OUTPUTS, strict=True)]
    maps = "".join(f'{field}_map {{ key: "{name}" value: "{outer}" }}\n' for field, name, outer in pairs)
    step = f'step {{ model_name: "{model}" model_version: -1\n{maps}}}'
    return f'platform: "ensemble"\n{_tensors(cell["type"])}ensemble_scheduling {{ {step} }}\n'
