"""``TRITONSERVER_Parameter``: a named value given to load, labels and repositories."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from . import _types as T
from ._handle import Handle
from ._library import Library, load
from ._types import ParameterType
from .errors import InvalidArgError

ParameterValue = str | int | bool | float | bytes

_SCALARS: dict[ParameterType, Any] = {
    ParameterType.INT: ctypes.c_int64,
    ParameterType.BOOL: ctypes.c_bool,
    ParameterType.DOUBLE: ctypes.c_double,
}


def parameter_type(value: ParameterValue) -> ParameterType:
    """The Triton type of a Python value: bool before int, since a bool is one."""
    if isinstance(value, bool):
        return ParameterType.BOOL
    if isinstance(value, int):
        return ParameterType.INT
    if isinstance(value, float):
        return ParameterType.DOUBLE
    if isinstance(value, str):
        return ParameterType.STRING
    if isinstance(value, (bytes, bytearray, memoryview)):
        return ParameterType.BYTES
    raise TypeError(f"a parameter is a str, int, bool, float or bytes, not {type(value).__name__}")


def read_value(kind: int, address: int) -> ParameterValue:
    """The value behind the ``const void*`` that ``TRITONSERVER_InferenceResponseParameter`` gives."""
    scalar = _SCALARS.get(ParameterType(kind))
    if scalar is not None:
        value: ParameterValue = scalar.from_address(address).value
        return value
    raw = ctypes.string_at(address)
    return raw.decode() if kind == ParameterType.STRING else raw


class Parameter(Handle):
    """``TRITONSERVER_ParameterNew``, or ``...ParameterBytesNew`` for bytes, which Triton does not copy."""

    noun = "parameter"

    def __init__(self, name: str, value: ParameterValue, library: Library | None = None) -> None:
        library = library or load()
        self._api = library.api
        kind = parameter_type(value)
        held: Any
        if kind == ParameterType.BYTES:
            held = ctypes.create_string_buffer(bytes(value), len(value))  # type: ignore[arg-type]
            pointer = self._api.ParameterBytesNew(name.encode(), ctypes.addressof(held), len(held))
        elif kind == ParameterType.STRING:
            held = ctypes.create_string_buffer(str(value).encode())
            pointer = self._api.ParameterNew(name.encode(), kind, ctypes.addressof(held))
        else:
            held = _SCALARS[kind](value)
            pointer = self._api.ParameterNew(name.encode(), kind, ctypes.addressof(held))
        if not pointer:
            raise InvalidArgError(f"Triton made no parameter {name!r} of type {kind.name}", "TRITONSERVER_ParameterNew")
        super().__init__(pointer, library)
        self.name = name
        self._held = held

    def _dispose(self, pointer: Any) -> None:
        self._api.ParameterDelete(pointer)


@contextmanager
def parameter_array(library: Library, values: Mapping[str, ParameterValue]) -> Iterator[tuple[Any, int]]:
    """The values as a C array of parameters and its length, for the time of one call."""
    with ExitStack() as stack:
        made = [stack.enter_context(Parameter(name, value, library)) for name, value in values.items()]
        yield (T.Parameter_p * len(made))(*(parameter.pointer for parameter in made)), len(made)
