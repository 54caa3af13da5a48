"""Models for backends that need a file: made with the exporter of their format, where that is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ._matrix_axes import ADD_SUB, VALUES, Reason, reason

_EXPORTER = {"onnxruntime": "onnx", "pytorch": "torch", "tensorrt": "tensorrt"}
_PLATFORM = {"onnxruntime": "onnxruntime_onnx", "pytorch": "pytorch_libtorch", "tensorrt": "tensorrt_plan"}
_FILE = {"onnxruntime": "model.onnx", "pytorch": "model.pt", "tensorrt": "model.plan"}
_TYPES = {
    "onnxruntime": ("int32", "fp32", "fp16", "bf16", "int64", "bool", "fp64"),
    "pytorch": ("int32", "fp32", "fp16", "int64", "bool", "fp64"),
    "tensorrt": ("int32", "fp32", "fp16"),
}
_ONNX_OPSET, _ONNX_IR = 13, 8  # what every ONNX Runtime of these years reads
_LARGEST = 64 << 20  # bytes of a tensor, for TensorRT's profile


def reasons(backend: str) -> list[Reason]:
    """What this backend's cells cannot be."""
    exporter = _EXPORTER[backend]
    packages = [exporter, "onnx"] if backend == "tensorrt" else [exporter]
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return [reason(f"backend={backend}", f"models for {backend} are made with {absent[0]}, which is not installed")]
    found = []
    others = ",".join(value for value in VALUES["type"] if value not in _TYPES[backend])
    found.append(reason(f"backend={backend},type={others}", f"{backend} has no model for this datatype"))
    if backend == "tensorrt":
        found.append(reason("backend=tensorrt,model=cpu", "TensorRT runs on GPUs only"))
        found.append(reason("backend=tensorrt,size=0", "a TensorRT profile has no empty tensors"))
    return found


def header(backend: str) -> str:
    """The first line of a config.pbtxt."""
    return f'backend: "{backend}"\nplatform: "{_PLATFORM[backend]}"\n'


def export(backend: str, folder: Path, datatype: str, device: str, max_batch: int) -> None:
    """Writes the model file: two inputs of [batch, n], two outputs: sum and difference, or the inputs themselves."""
    path = folder / _FILE[backend]
    if backend == "onnxruntime":
        path.write_bytes(onnx_model(datatype))
    elif backend == "pytorch":
        _torch_script(path, datatype)
    else:
        path.write_bytes(_plan(datatype, device, max_batch))


def onnx_model(datatype: str) -> bytes:
    """A serialised ONNX model."""
    import onnx  # noqa: PLC0415 - only where it is installed
    from onnx import TensorProto, helper  # noqa: PLC0415

    names = {"int32": "INT32", "int64": "INT64", "bool": "BOOL", "bf16": "BFLOAT16"}
    names |= {"fp16": "FLOAT16", "fp32": "FLOAT", "fp64": "DOUBLE"}
    kind = getattr(TensorProto, names[datatype])
    values = {
        field: [helper.make_tensor_value_info(f"{field}{n}", kind, ["batch", "n"]) for n in (0, 1)]
        for field in ("INPUT", "OUTPUT")
    }
    if datatype in ADD_SUB:
        both = ["INPUT0", "INPUT1"]
        nodes = [helper.make_node(operator, both, [f"OUTPUT{n}"]) for n, operator in enumerate(("Add", "Sub"))]
    else:
        nodes = [helper.make_node("Identity", [f"INPUT{n}"], [f"OUTPUT{n}"]) for n in (0, 1)]
    graph = helper.make_graph(nodes, "matrix", values["INPUT"], values["OUTPUT"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _ONNX_OPSET)])
    model.ir_version = _ONNX_IR
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _torch_script(path: Path, datatype: str) -> None:
    """A TorchScript module; Triton's inputs go to its arguments by their names, its results to OUTPUT__0, OUTPUT__1."""
    import torch  # noqa: PLC0415

    results = "INPUT0 + INPUT1, INPUT0 - INPUT1" if datatype in ADD_SUB else "INPUT0.clone(), INPUT1.clone()"
    source = f"def forward(self, INPUT0, INPUT1):\n    return {results}\n"
    module = torch.jit.ScriptModule()
    module.define(source)
    module.save(str(path))


def _plan(datatype: str, device: str, max_batch: int) -> bytes:
    """A TensorRT engine, built on the device that it is for, out of the ONNX model."""
    import tensorrt  # noqa: PLC0415

    from tritoncapi import cuda  # noqa: PLC0415

    with cuda.current(int(device.partition(":")[2])):
        builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, builder.logger)
        if not parser.parse(onnx_model(datatype)):
            raise RuntimeError(f"TensorRT cannot read the ONNX model: {parser.get_error(0)}")
        profile = builder.create_optimization_profile()
        for name in ("INPUT0", "INPUT1"):
            profile.set_shape(name, (1, 1), (1, 16), (max_batch, _LARGEST // (2 if datatype == "fp16" else 4)))
        config = builder.create_builder_config()
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise RuntimeError("TensorRT built no engine")
        return bytes(engine)
