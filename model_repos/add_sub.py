"""The Python backend's add/sub model: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1.

With the parameter operation = identity each output is its input. On a GPU instance numbers are computed, and given
back, as GPU tensors (PyTorch or CuPy, whichever is there), unless FORCE_CPU_ONLY_INPUT_TENSORS is yes.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.text = config["input"][0]["data_type"] == "TYPE_STRING"
        settings = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.identity = settings.get("operation") == "identity"
        on_cpu = settings.get("FORCE_CPU_ONLY_INPUT_TENSORS") == "yes"
        self.load: Callable[[Any], Any] | None = None
        if args["model_instance_kind"] == "GPU" and not self.text and not on_cpu:
            self.load = _gpu_loader(int(args["model_instance_device_id"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = [pb_utils.get_input_tensor_by_name(request, name) for name in ("INPUT0", "INPUT1")]
        if self.load is not None:
            a, b = (self.load(tensor) for tensor in inputs)
            results = (a, b) if self.identity else (a + b, a - b)
            tensors = [pb_utils.Tensor.from_dlpack(f"OUTPUT{i}", x) for i, x in enumerate(results)]
        else:
            tensors = [pb_utils.Tensor(f"OUTPUT{i}", x) for i, x in enumerate(self._on_cpu(*inputs))]
        return pb_utils.InferenceResponse(tensors)

    def _on_cpu(self, first: Any, second: Any) -> list[Any]:
        a, b = first.as_numpy(), second.as_numpy()
        if self.identity:
            return [a, b]
        if not self.text:
            return [a + b, a - b]
        a, b = (np.vectorize(int, otypes=[np.int64])(x) for x in (a, b))
        return [np.vectorize(lambda n: str(n).encode(), otypes=[object])(x) for x in (a + b, a - b)]


def _gpu_loader(device: int) -> Callable[[Any], Any]:
    """What turns a tensor of the backend into one of a GPU library, on this device."""
    try:
        import torch
    except ImportError:
        import cupy

        def load_cupy(tensor: Any) -> Any:
            with cupy.cuda.Device(device):
                return cupy.asarray(cupy.from_dlpack(tensor))

        return load_cupy

    torch.cuda.set_device(device)  # torch exports tensors of the current device only

    def load_torch(tensor: Any) -> Any:
        return torch.from_dlpack(tensor.to_dlpack()).to(f"cuda:{device}")

    return load_torch
