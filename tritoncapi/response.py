"""InferenceResponse: outputs as views of the buffers that the allocator gave, without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

from ._handle import Handle
from ._library import Library
from ._types import Error_p, InferenceResponse_p
from .errors import ClosedError, Error, TritonError
from .output import Lease, Looked, Output, Row, looked_at, read_rows
from .parameter import ParameterValue, read_value

Quick = tuple[int | None, int | None, object]
"""A run's and an allocator's address, and what they belong to: where a response may be put aside. None: nowhere."""

NOWHERE: Quick = (None, None, None)
_LEASE = ""  # no output's name


class InferenceResponse(Handle):
    """A response that is ours: close it (``TRITONSERVER_InferenceResponseDelete``) to give its buffers back.

    ``final`` tells whether Triton flagged it as the last one, ``time_ns`` when it came (CLOCK_MONOTONIC).
    """

    noun = "inference response"
    _rows: dict[str, Row] | None = None  # when they were read
    _looked: Looked | None = None  # read by the native call that brought it

    def __init__(
        self,
        pointer: Any,
        library: Library,
        *parents: object,
        final: bool = True,
        time_ns: int = 0,
    ) -> None:
        self._pointer = pointer
        self._parents: tuple[Any, ...] = parents
        self._library = library
        self._quick: Quick | None = None
        self._made: dict[str, Any] = {}  # outputs, and what they hold
        self.final = final
        self.time_ns = time_ns

    @classmethod
    def came(
        cls, address: int, library: Library, parents: tuple[Any, ...], quick: Quick | None, final: int, time_ns: int
    ) -> InferenceResponse:
        """One that native code took; made often, so without what a call of the class and a typed pointer cost.

        ``quick``: its buffers go back to a native allocator in no time: deleting it keeps the interpreter lock.
        """
        self = cls.__new__(cls)
        self._pointer = address
        self._parents = parents
        self._library = library
        self._quick = quick
        self._made = {}
        self.final = final != 0
        self.time_ns = time_ns
        return self

    @property
    def pointer(self) -> Any:
        """The C pointer. Raises ClosedError when it is no longer ours."""
        pointer = super().pointer
        # Not written back: another thread may close it meanwhile.
        return ctypes.cast(pointer, InferenceResponse_p) if type(pointer) is int else pointer

    def _take(self) -> Any:
        pointer = super()._take()
        return ctypes.cast(pointer, InferenceResponse_p) if type(pointer) is int else pointer

    @property
    def error(self) -> TritonError | None:
        """The error that this response stands for, or None (``TRITONSERVER_InferenceResponseError``)."""
        pointer = self.pointer
        error = self._library.api.InferenceResponseError(pointer)
        if not error:
            return None
        try:
            found = self._library.api.read_error(error)
        finally:
            self._library.native.response_error_done(pointer, error)
        assert isinstance(found, TritonError)
        return found

    def raise_for_error(self) -> InferenceResponse:
        """Raises ``error`` if there is one; returns the response."""
        error = self.error
        if error is not None:
            raise error
        return self

    @property
    def model(self) -> tuple[str, int]:
        """Name and version of the model that answered (``TRITONSERVER_InferenceResponseModel``)."""
        name, version = self._library.api.InferenceResponseModel(self.pointer)
        return name.decode(), version

    @property
    def id(self) -> str:
        """The request's id (``TRITONSERVER_InferenceResponseId``)."""
        return (self._library.api.InferenceResponseId(self.pointer) or b"").decode()

    @property
    def parameters(self) -> dict[str, ParameterValue]:
        """The response's parameters (``TRITONSERVER_InferenceResponseParameter``)."""
        found = {}
        for index in range(self._library.api.InferenceResponseParameterCount(self.pointer)):
            name, kind, address = self._library.api.InferenceResponseParameter(self.pointer, index)
            found[name.decode()] = read_value(kind, address)
        return found

    @property
    def outputs(self) -> Mapping[str, Output]:
        """The outputs by name, in the response's order."""
        return {name: self._output(name, row) for name, row in self._read().items()}

    def __getitem__(self, name: str) -> Output:
        row = looked_at(self._looked, name) if self._looked is not None else None
        if row is None:
            rows = self._read()
            row = rows.get(name)
            if row is None:
                raise Error(f"the response has no output {name!r}; it has {', '.join(rows) or 'none'}")
        return self._output(name, row)

    def _read(self) -> dict[str, Row]:
        if self._rows is None:
            self._rows = read_rows(self._library, self.pointer)
        return self._rows

    def _output(self, name: str, row: Row) -> Output:
        made = self._made
        found = made.get(name)
        if found is None:
            # Without a lock: of what two threads make, both have what was there first. One that closes it takes the
            # pointer first and looks for a lease then.
            lease = made.get(_LEASE) or made.setdefault(_LEASE, Lease())
            found = made.setdefault(name, Output(self, row, lease))
            if self._pointer is None:
                raise ClosedError(f"this {self.noun} is closed")
        output: Output = found
        return output

    def __iter__(self) -> Iterator[Output]:
        return iter(self.outputs.values())

    def __len__(self) -> int:
        return len(self._read())

    def close(self) -> None:
        """Deletes it. Closing again does nothing. Views of its outputs stay valid: they then hold its buffers."""
        quick = self._quick
        if quick is None:
            super().close()
            return
        put_aside = self._library.native.run_put_aside
        run, userp, kept = quick
        made = self._made
        # From here to the call no other thread runs, nor a signal's handler, which might raise: both have their turn
        # after a call, and there is none. So the pointer is always somebody's. Views look for it after their lease.
        pointer, self._pointer = self._pointer, None
        if pointer is None:
            return
        self._made = {}
        if _LEASE in made:  # the last of who has it does it, here or later
            made[_LEASE].end = put_aside, (run, pointer, userp), kept
            self._rows = self._looked = None
            return
        error = put_aside(run, pointer, userp)
        self._rows = self._looked = None
        if error:
            self._pointer = pointer
            raise self._library.api.take_error(ctypes.cast(error, Error_p), "TRITONSERVER_InferenceResponseDelete")

    def _dispose(self, pointer: Any) -> None:
        made, self._made = self._made, {}
        self._rows = self._looked = None
        lease = made.get(_LEASE)
        if lease is None:
            self._library.api.InferenceResponseDelete(pointer)
        else:
            lease.end = self._library.api.InferenceResponseDelete, (pointer,), None
