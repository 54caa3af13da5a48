"""Where memory is: a memory type and a device id."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from ._types import MemoryType

_WORD = re.compile(r"gpu:(\d+)|(\d+)")


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """A Triton memory type and memory type id. Host memory has id 0."""

    memory_type: MemoryType
    device: int = 0

    @classmethod
    def parse(cls, text: str) -> Place:
        """Reads ``cpu``, ``pinned``, ``gpu:N``, and upstream's ``-1`` (CPU) and ``N`` (GPU N); else ValueError."""
        word = text.strip().lower()
        if word in ("cpu", "-1"):
            return CPU
        if word == "pinned":
            return PINNED
        match = _WORD.fullmatch(word)
        if not match:
            raise ValueError(f"{text!r} is no place: use cpu, pinned, gpu:N, a device id, or -1 for the CPU")
        return gpu(int(match[1] or match[2]))

    @property
    def on_host(self) -> bool:
        """True where the CPU can read it: CPU and pinned memory."""
        return self.memory_type != MemoryType.GPU

    def __str__(self) -> str:
        if self.memory_type == MemoryType.GPU:
            return f"gpu:{self.device}"
        name = "pinned" if self.memory_type == MemoryType.CPU_PINNED else "cpu"
        return name if self.device == 0 else f"{name}:{self.device}"


def gpu(device: int) -> Place:
    """Memory of GPU ``device`` (CUDA ordinal). Raises ValueError for a negative one, TypeError for what is no int."""
    try:
        ordinal = operator.index(device)
    except TypeError:
        raise TypeError(f"a GPU is named by an int, not {type(device).__name__}: {device!r}") from None
    if ordinal < 0:
        raise ValueError(f"there is no GPU {ordinal}: they count from 0, and the CPU is tritoncapi.CPU")
    return Place(MemoryType.GPU, ordinal)


CPU = Place(MemoryType.CPU)
PINNED = Place(MemoryType.CPU_PINNED)
