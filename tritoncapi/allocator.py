"""Response allocators: who decides where an output goes, and what became of each buffer."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from . import _types as T
from ._callbacks import Registry
from ._library import Library, load
from ._native import Record
from ._types import ErrorCode, MemoryType
from .allocator_base import AllocatorHandle, NativeAllocator
from .errors import Error, TritonError
from .memory import Buffer
from .place import CPU, Place
from .roster import Roster

if TYPE_CHECKING:
    pass

Rule = Place | Literal["preferred"] | TritonError
"""Where a tensor goes: a place, where Triton prefers it, or an error that the allocation shall fail with."""

_FIXED, _PREFERRED, _FAIL = range(3)


@dataclass(frozen=True)
class Allocation:
    """One output buffer. Times are ns of CLOCK_MONOTONIC; ``released_ns`` is 0 while somebody holds the buffer.

    An output of zero bytes has no buffer (address 0); Triton releases none, so it counts as back at once.
    """

    tensor: str
    nbytes: int
    preferred: Place
    actual: Place
    address: int
    allocated_ns: int
    released_ns: int = 0
    releases: int = 0
    mismatched: int = 0


class ResponseAllocator(NativeAllocator):
    """Places outputs by rules, in native code that never takes the interpreter lock.

    ``ResponseAllocator(gpu(0))`` puts every output on GPU 0; ``ResponseAllocator("preferred")`` follows the model;
    ``tensors`` gives single tensors a rule of their own, and a TritonError as a rule makes the allocation fail with it.
    With ``keep_records`` every allocation stays in ``records`` until ``clear()``; without it only live ones do.
    ``cuda_ipc`` gives GPU buffers a CUDA IPC handle (through the buffer-attributes callback). ``poison`` is a byte that
    new buffers are filled with, so that memory nobody wrote cannot pass for an answer. With ``reuse`` buffers that come
    back are kept for outputs of the same size and place, until ``close()``: a CUDA allocation costs more than most
    requests. ``reserve()`` makes some beforehand. Without records, small outputs of a prepared request may stay out
    after their response was closed, up to 1 MiB in all: until the next answer, or until somebody looks at ``counts``.
    """

    noun = "response allocator"

    def __init__(
        self,
        default: Rule = CPU,
        tensors: Mapping[str, Rule] | None = None,
        *,
        keep_records: bool = True,
        cuda_ipc: bool = False,
        poison: int | None = None,
        reuse: bool = False,
        library: Library | None = None,
    ) -> None:
        library = library or load()
        self._api, self._native = library.api, library.native
        fill = -1 if poison is None else poison & 0xFF
        self._native_counts = self._native.allocator_counts
        self._state = self._native.allocator_new(keep_records, cuda_ipc, fill, reuse)
        self.reuse = reuse
        #: Requests whose closed responses may hold buffers of this for a while; None: closed ones hold none.
        self._senders: Roster | None = None
        if reuse and not keep_records:
            self._senders = Roster(library)
            self._before_look = self._senders.clear_aside
        if not self._state:
            raise MemoryError("no memory for a response allocator")
        try:
            self._add_rule(None, default)
            for tensor, rule in (tensors or {}).items():
                self._add_rule(tensor, rule)
        except BaseException:
            self._native.allocator_delete(self._state)
            raise
        native = self._native
        pointer = self._api.ResponseAllocatorNew(native.alloc_fn, native.release_fn, native.start_fn)
        super().__init__(pointer, library)
        self._api.ResponseAllocatorSetQueryFunction(pointer, native.query_fn)
        self._api.ResponseAllocatorSetBufferAttributesFunction(pointer, native.attributes_fn)

    def _add_rule(self, tensor: str | None, rule: Rule) -> None:
        name = None if tensor is None else tensor.encode()
        arguments: tuple[Any, ...]
        if isinstance(rule, Place):
            arguments = (_FIXED, rule.memory_type, rule.device, 0, None)
        elif isinstance(rule, TritonError):
            arguments = (_FAIL, 0, 0, rule.code, rule.message.encode())
        elif rule == "preferred":
            arguments = (_PREFERRED, 0, 0, 0, None)
        else:
            raise TypeError(f"a rule is a Place, 'preferred' or a TritonError, not {rule!r}")
        if self._native.allocator_rule(self._state, name, *arguments):
            raise MemoryError("no memory for an allocator's rule")

    def reserve(self, place: Place, nbytes: int, count: int = 1) -> None:
        """Makes ``count`` buffers of ``nbytes`` at ``place`` for later outputs. Needs ``reuse``; raises MemoryError."""
        self.pointer  # noqa: B018 - raises when it is closed
        if not self.reuse or type(nbytes) is not int or not 1 <= nbytes < 1 << 63 or count < 0:
            raise ValueError("reserve() needs an allocator made with reuse=True, a size in bytes and a count")
        failure = self._native.allocator_reserve(self.userp, place.memory_type, place.device, nbytes, count)
        if failure:
            raise MemoryError(f"{count} buffers of {nbytes} bytes at {place}: {failure.decode(errors='replace')}")

    @property
    def records(self) -> list[Allocation]:
        """The allocations on record, oldest first."""
        if not self._state:
            return []
        if self._before_look is not None:
            self._before_look()
        room = (Record * (self.counts.allocations + 16))()
        count = self._native.allocator_records(self._state, 0, room, len(room))
        return [
            Allocation(
                tensor=record.tensor.decode(errors="replace"),
                nbytes=record.byte_size,
                preferred=Place(MemoryType(record.preferred_type), record.preferred_id),
                actual=Place(MemoryType(record.actual_type), record.actual_id),
                address=record.buffer or 0,
                allocated_ns=record.allocated_ns,
                released_ns=record.released_ns,
                releases=record.releases,
                mismatched=record.mismatched,
            )
            for record in sorted(room[:count], key=lambda record: record.sequence)
        ]

    def clear(self) -> None:
        """Forgets the records of buffers that came back."""
        if self._state:
            self._native.allocator_clear(self._state)

    def _dispose(self, pointer: Any) -> None:
        self._api.ResponseAllocatorDelete(pointer)
        self._native.allocator_delete(self._state)
        self._state = None


AllocateFunction = Callable[[str, int, Place], Place | Buffer]
"""``(tensor name, byte size, preferred place) -> where it goes``: a place, or a buffer of at least that size."""


class CallableAllocator(AllocatorHandle):
    """Asks a Python function for every output. It runs on Triton's threads and takes the interpreter lock each time.

    What the function raises becomes a Triton error on that response (a TritonError keeps its code) and is kept in
    ``errors``. ``on_start``, ``on_query`` (given tensor, size, place; returns the place to announce) and
    ``on_attributes`` (tensor name) are called where given.
    """

    noun = "callable allocator"

    def __init__(
        self,
        allocate: AllocateFunction,
        *,
        on_start: Callable[[], None] | None = None,
        on_query: Callable[[str | None, int | None, Place], Place] | None = None,
        on_attributes: Callable[[str], None] | None = None,
        library: Library | None = None,
    ) -> None:
        library = library or load()
        self._api, self._native = library.api, library.native
        self._allocate = allocate
        self._on_start, self._on_query, self._on_attributes = on_start, on_query, on_attributes
        self._lock = threading.Lock()
        self._live: Registry[tuple[int, Buffer, bool]] = Registry()
        self.records: list[Allocation] = []
        self.errors: list[BaseException] = []
        # ctypes keeps no reference to a callback: these live as long as the allocator.
        self._callbacks = (T.AllocFn(self._alloc), T.ReleaseFn(self._release), T.StartFn(self._start))
        self._query_callback = T.QueryFn(self._query)
        self._attributes_callback = T.BufferAttributesFn(self._attributes)
        pointer = self._api.ResponseAllocatorNew(*self._callbacks)
        super().__init__(pointer, library)
        self._api.ResponseAllocatorSetQueryFunction(pointer, self._query_callback)
        self._api.ResponseAllocatorSetBufferAttributesFunction(pointer, self._attributes_callback)

    @property
    def userp(self) -> int:
        """Nothing: the callbacks know their allocator."""
        return 0

    @property
    def live(self) -> int:
        """Buffers that were given out and have not come back."""
        return len(self._live)

    def close(self) -> None:
        """Deletes the allocator. Raises Error while buffers are out."""
        if not self.closed:
            self._check_closable(self.live)
        super().close()

    def _dispose(self, pointer: Any) -> None:
        self._api.ResponseAllocatorDelete(pointer)

    def _failed(self, error: BaseException, what: str) -> int:
        """A Triton error for something that was raised; its ownership goes to Triton."""
        self.errors.append(error)
        code = error.code if isinstance(error, TritonError) else ErrorCode.INTERNAL
        text = error.message if isinstance(error, TritonError) else f"{what}: {type(error).__name__}: {error}"
        pointer = self._api.ErrorNew(code, text.encode())
        return ctypes.cast(pointer, ctypes.c_void_p).value or 0

    def _alloc(
        self,
        _allocator: Any,
        tensor: bytes | None,
        nbytes: int,
        kind: int,
        device: int,
        _userp: int | None,
        buffer: Any,
        buffer_userp: Any,
        actual_kind: Any,
        actual_device: Any,
    ) -> int | None:
        name = (tensor or b"").decode(errors="replace")
        try:
            preferred = Place(MemoryType(kind), device)
            given = self._allocate(name, nbytes, preferred)
            ours = isinstance(given, Place)
            made = Buffer.empty(nbytes, given) if isinstance(given, Place) else given
            if made.nbytes < nbytes:
                raise ValueError(f"the buffer has {made.nbytes} bytes, {nbytes} are needed")
            now = time.monotonic_ns()
            record = Allocation(name, nbytes, preferred, made.place, made.address if nbytes else 0, now)
            actual_kind[0], actual_device[0] = made.place.memory_type, made.place.device
            if not nbytes:  # there is nothing to give out, and nothing comes back
                record = replace(record, released_ns=now)
                if ours:
                    made.close()
            with self._lock:
                index = len(self.records)
                self.records.append(record)
            if nbytes:
                buffer[0] = made.address
                buffer_userp[0] = self._live.add((index, made, ours))
        except BaseException as error:
            return self._failed(error, f"response allocator: output '{name}'")
        return None

    def _release(
        self, _allocator: Any, buffer: int | None, key: int | None, nbytes: int, kind: int, device: int
    ) -> int | None:
        try:
            if not self._take_back(key or 0, (buffer or 0, nbytes, kind, device)):
                raise Error("a buffer was released that is not out")
        except BaseException as error:
            return self._failed(error, "response allocator: release")
        return None

    def _take_back(self, key: int, named: tuple[int, int, int, int] | None = None) -> bool:
        """Ends an allocation; ``named`` is what a release says of it. False when it is not out."""
        entry = self._live.drop(key)
        if entry is None:
            return False
        index, made, ours = entry
        with self._lock:
            record = self.records[index]
            given = (record.address, record.nbytes, record.actual.memory_type, record.actual.device)
            wrong = named is not None and named != given
            self.records[index] = replace(
                record, released_ns=time.monotonic_ns(), releases=int(named is not None), mismatched=int(wrong)
            )
        if ours:
            made.close()
        return True

    def _start(self, _allocator: Any, _userp: int | None) -> int | None:
        try:
            if self._on_start:
                self._on_start()
        except BaseException as error:
            return self._failed(error, "response allocator: start")
        return None

    def _query(
        self, _allocator: Any, _userp: int | None, tensor: bytes | None, nbytes: Any, kind: Any, device: Any
    ) -> int | None:
        try:
            if self._on_query:
                name = tensor.decode(errors="replace") if tensor else None
                size = nbytes[0] if nbytes else None
                place = self._on_query(name, size, Place(MemoryType(kind[0]), device[0]))
                kind[0], device[0] = place.memory_type, place.device
        except BaseException as error:
            return self._failed(error, "response allocator: query")
        return None

    def _attributes(
        self, _allocator: Any, tensor: bytes | None, _attributes: Any, _userp: int | None, key: int | None
    ) -> int | None:
        try:
            if self._on_attributes:
                self._on_attributes((tensor or b"").decode(errors="replace"))
        except BaseException as error:
            self._take_back(key or 0)  # Triton forgets this buffer without a release
            return self._failed(error, "response allocator: attributes")
        return None
