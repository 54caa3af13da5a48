"""The table of functions, the enums and the callback types against a transcript of the header."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from dataclasses import replace
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import pytest

from tritoncapi import _types as T
from tritoncapi._bindings import API_MAJOR, API_MINOR, PREFIX, ROWS, Functions, Out, Row, enum
from tritoncapi.errors import MissingFunctionError

DATA = Path(__file__).parents[1] / "data"
HEADER = json.loads((DATA / "tritonserver-1.34.json").read_text())
SINCE = dict(line.split("\t") for line in (DATA / "since.tsv").read_text().splitlines()[1:])

SCALARS = {
    "bool": c_bool,
    "double": c_double,
    "int": c_int,
    "int64_t": c_int64,
    "size_t": c_size_t,
    "uint32_t": c_uint32,
    "uint64_t": c_uint64,
    "unsigned int": c_uint,
}
CALLBACKS = {
    "ResponseAllocatorAllocFn_t": T.AllocFn,
    "ResponseAllocatorReleaseFn_t": T.ReleaseFn,
    "ResponseAllocatorStartFn_t": T.StartFn,
    "ResponseAllocatorQueryFn_t": T.QueryFn,
    "ResponseAllocatorBufferAttributesFn_t": T.BufferAttributesFn,
    "InferenceTraceActivityFn_t": T.TraceActivityFn,
    "InferenceTraceTensorActivityFn_t": T.TraceTensorActivityFn,
    "InferenceTraceReleaseFn_t": T.TraceReleaseFn,
    "InferenceRequestReleaseFn_t": T.RequestReleaseFn,
    "InferenceResponseCompleteFn_t": T.ResponseCompleteFn,
}
ENUMS = {"Error_Code": T.ErrorCode, "InferenceTraceLevel": T.TraceLevel, "InferenceTraceActivity": T.TraceActivity}
# A pointer that is an array or a struct which the caller fills or passes by reference, not an out-parameter.
IN_POINTERS = {"const int64_t*", "const double*", "const TRITONSERVER_Parameter**"}


def ctype(text: str) -> Any:
    """The ctypes type for a C type as the transcript has it."""
    plain = re.sub(r"\b(const|struct)\b", "", text).strip()
    stars = plain.count("*")
    name = plain.replace("*", "").strip()
    short = name.removeprefix(PREFIX)
    if name in ("char", "void"):
        # One star of a char or void pointer belongs to the type itself.
        base, stars = (c_char_p if name == "char" else c_void_p, stars - 1) if stars else (None, 0)
    elif name in HEADER["opaque"]:
        base, stars = getattr(T, short + "_p"), stars - 1
    elif short in CALLBACKS:
        base = CALLBACKS[short]
    elif name in HEADER["enums"]:
        base = enum
    else:
        base = SCALARS[name]
    for _ in range(stars):
        base = POINTER(base)
    return base


def is_out(text: str) -> bool:
    """A pointer to something that the function sets."""
    if text in IN_POINTERS:
        return False
    name = text.replace("const", "").replace("struct", "").replace("*", "").strip()
    own = 1 if name in HEADER["opaque"] or name in ("char", "void") else 0
    return text.count("*") > own


def mistakes(row: Row) -> list[str]:
    """What is wrong with a row; nothing is what we want."""
    declared = HEADER["functions"][PREFIX + row.name]
    found = []
    wanted = ctype(declared["returns"])
    if row.restype is not wanted:
        found.append(f"returns {row.restype}, not {wanted}")
    given, arguments = row.parameters, declared["args"]
    if len(given) != len(arguments):
        return [*found, f"has {len(given)} parameters, not {len(arguments)}"]
    for parameter, argtype, (text, name) in zip(given, row.argtypes, arguments, strict=True):
        if isinstance(parameter, Out) != is_out(text):
            found.append(f"{name}: {text} is {'an' if is_out(text) else 'no'} out-parameter")
        wanted = ctype(text)
        # Text that comes with a length may hold NULs, or need no copy: an address will do for it.
        as_address = text == "const char**" and argtype is POINTER(c_void_p)
        if argtype is not wanted and not as_address:
            found.append(f"{name}: {argtype}, not {wanted}")
        if as_address and not any(other == "size_t*" for other, _ in arguments):
            found.append(f"{name}: an address without a length")
    is_status = declared["returns"] == "TRITONSERVER_Error*" and row.name not in ("ErrorNew", "InferenceResponseError")
    if row.checked != is_status:
        found.append("its error is checked" if row.checked else "its error is not checked")
    if SINCE[PREFIX + row.name] != ".".join(map(str, row.since)):
        found.append(f"is there since {SINCE[PREFIX + row.name]}, not {row.since}")
    return found


def test_every_function_of_the_header_is_bound_and_nothing_else() -> None:
    assert {PREFIX + name for name in ROWS} == set(HEADER["functions"]) == set(SINCE)
    assert len(ROWS) == 172
    assert all(name == row.name for name, row in ROWS.items())


@pytest.mark.parametrize("name", ROWS)
def test_row_agrees_with_the_header(name: str) -> None:
    assert mistakes(ROWS[name]) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ServerIsLive", {"restype": c_int}),
        ("ServerIsLive", {"parameters": (T.Server_p, Out(c_int))}),
        ("ServerIsLive", {"parameters": (T.Server_p, POINTER(c_bool))}),
        ("ServerIsLive", {"parameters": (T.ServerOptions_p, Out(c_bool))}),
        ("ServerIsLive", {"parameters": (Out(c_bool),)}),
        ("ServerIsLive", {"since": (1, 18)}),
        ("ServerIsLive", {"checked": False}),
        ("InferenceResponseError", {"checked": True}),
        ("InferenceRequestId", {"parameters": (T.InferenceRequest_p, Out(c_void_p))}),
        ("InferenceRequestSetPriority", {"parameters": (T.InferenceRequest_p, c_uint64)}),
        ("InferenceRequestAddInput", {"parameters": (*ROWS["InferenceRequestAddInput"].parameters[:3], Out(c_int64))}),
        ("ResponseAllocatorNew", {"parameters": (Out(T.ResponseAllocator_p), T.ReleaseFn, T.ReleaseFn, T.StartFn)}),
    ],
)
def test_a_wrong_row_is_noticed(name: str, changes: dict[str, Any]) -> None:
    assert mistakes(replace(ROWS[name], **changes))


def test_what_keeps_the_lock_cannot_wait_for_a_callback() -> None:
    # These run callbacks or wait for threads that do: with the interpreter lock held that is a deadlock.
    lock_free = {name for name, row in ROWS.items() if not row.keeps_lock}
    waiting = [
        *("ServerNew", "ServerDelete", "ServerStop", "ServerInferAsync", "ServerLoadModel", "ServerUnloadModel"),
        *("ServerLoadModelWithParameters", "ServerUnloadModelAndDependents", "ServerPollModelRepository"),
        *("InferenceRequestDelete", "InferenceResponseDelete", "InferenceTraceDelete", "InferenceTraceReportActivity"),
        *("ServerRegisterModelRepository", "ServerUnregisterModelRepository", "InferenceRequestCancel", "LogMessage"),
    ]
    assert lock_free >= set(waiting)


def test_enums_have_the_headers_names_and_values() -> None:
    compared = set()
    for name, values in HEADER["enums"].items():
        short = name.removeprefix(PREFIX)
        ours = ENUMS.get(short) or getattr(T, short)
        compared.add(ours)
        assert {int(member): member.name for member in ours.__members__.values()} == {
            value: _without_prefix(c_name, ours.__members__) for c_name, value in values.items()
        }, name
    declared = {
        value
        for value in vars(T).values()
        if isinstance(value, type) and issubclass(value, (IntEnum, IntFlag)) and value not in (IntEnum, IntFlag)
    }
    assert compared == declared


def _without_prefix(c_name: str, members: Any) -> str:
    """The longest member name that the C name ends with: the header's prefixes follow no rule."""
    return max((name for name in members if c_name.endswith("_" + name)), key=len, default=c_name)


def test_callback_types_agree_with_the_header() -> None:
    assert {PREFIX + name for name in CALLBACKS} == set(HEADER["callbacks"])
    for name, ours in CALLBACKS.items():
        declared = HEADER["callbacks"][PREFIX + name]
        # ctypes lets a callback return only simple types: an error goes back as an address.
        wanted = c_void_p if "Error*" in declared["returns"] else ctype(declared["returns"])
        assert ours._restype_ is wanted, name
        assert list(ours._argtypes_) == [ctype(text) for text, _ in declared["args"]], name


def test_each_opaque_struct_has_a_pointer_type_of_its_own() -> None:
    names = [name.removeprefix(PREFIX) for name in HEADER["opaque"]]
    types = [getattr(T, name + "_p") for name in names]
    assert len(set(types)) == len(types) == 14
    with pytest.raises(ctypes.ArgumentError):
        T.StartFn(lambda _a, _b: None)(T.Server_p(), None)


def test_the_library_has_every_function(library: Any) -> None:
    assert library.api_version == (API_MAJOR, API_MINOR) == tuple(library.api.ApiVersion())
    assert library.api.missing == []
    for name in ROWS:
        assert library.dll[PREFIX + name]


def test_every_exported_function_is_bound(library: Any) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("there is no nm here to read the library's symbols with")
    text = subprocess.run([nm, "-D", "--defined-only", library.triton.library], capture_output=True, check=True).stdout
    exported = set(re.findall(rb"\bT (TRITONSERVER_\w+)", text))
    newer = library.api_version > (API_MAJOR, API_MINOR)
    bound = {(PREFIX + name).encode() for name in ROWS}
    assert bound <= exported if newer else bound == exported


def test_wrong_handle_is_refused(library: Any, server: Any) -> None:
    with pytest.raises(ctypes.ArgumentError):
        library.api.ServerIsLive(T.ServerOptions_p())
    with pytest.raises(ctypes.ArgumentError):
        library.api.InferenceRequestId(server.pointer)
    with pytest.raises(TypeError):
        library.api.ServerIsLive()


def test_a_missing_function_says_so_when_it_is_called() -> None:
    functions = Functions(ctypes.CDLL(None))
    row = Row("NotThere", T.Error_p, (c_int,), (1, 99))
    function = functions._bind(ctypes.CDLL(None), row)
    with pytest.raises(MissingFunctionError, match=r"TRITONSERVER_NotThere .* needs C API 1\.99 or newer"):
        function(1)
    assert functions.missing[-1] == "NotThere"


def test_no_such_function() -> None:
    with pytest.raises(AttributeError, match="TRITONSERVER_Nonsense is no function of C API"):
        Functions(ctypes.CDLL(None)).Nonsense()


def test_strings_of_enum_values(library: Any) -> None:
    api = library.api
    for datatype in T.DataType:
        assert api.DataTypeString(datatype).decode() in (datatype.name, "<invalid>")
        assert api.StringToDataType(datatype.name.encode()) == datatype
    assert [api.MemoryTypeString(kind) for kind in T.MemoryType] == [b"CPU", b"CPU_PINNED", b"GPU"]
    assert [api.ParameterTypeString(kind) for kind in T.ParameterType] == [
        *(b"STRING", b"INT", b"BOOL", b"DOUBLE", b"BYTES")
    ]
    assert [api.InstanceGroupKindString(kind) for kind in T.InstanceGroupKind] == [b"AUTO", b"CPU", b"GPU", b"MODEL"]
    assert api.InferenceTraceLevelString(T.TraceLevel.TIMESTAMPS) == b"TIMESTAMPS"
    for activity in T.TraceActivity:
        assert api.InferenceTraceActivityString(activity).decode() == activity.name


def test_sizes_of_datatypes(library: Any) -> None:
    from tritoncapi.tensor import element_size

    for datatype in T.DataType:
        assert library.api.DataTypeByteSize(datatype) == element_size(datatype)


@pytest.mark.parametrize("code", T.ErrorCode)
def test_errors_keep_code_and_text(library: Any, code: T.ErrorCode) -> None:
    from tritoncapi.errors import TritonError, triton_error

    error = library.api.ErrorNew(code, "grüße".encode())
    assert library.api.ErrorCode(error) == code
    text = library.api.ErrorCodeString(error)
    # Triton has no text for its own cancellations.
    assert text == (b"<invalid code>" if code == T.ErrorCode.CANCELLED else _text_of(code))
    assert library.api.ErrorMessage(error) == "grüße".encode()
    assert type(library.api.read_error(error)) is type(triton_error(code, ""))
    taken = library.api.take_error(error, "Call")
    assert isinstance(taken, TritonError)
    assert (taken.code, taken.message, str(taken)) == (code, "grüße", f"Call: [{code.name}] grüße")


def _text_of(code: T.ErrorCode) -> bytes:
    words = {T.ErrorCode.INVALID_ARG: "Invalid argument", T.ErrorCode.ALREADY_EXISTS: "Already exists"}
    return words.get(code, code.name.replace("_", " ").capitalize()).encode()
