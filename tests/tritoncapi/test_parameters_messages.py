"""Parameters and messages."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi.errors import ClosedError, InvalidArgError, TritonError
from tritoncapi.message import take_json
from tritoncapi.parameter import parameter_array, parameter_type


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("text", tc.ParameterType.STRING),
        ("", tc.ParameterType.STRING),
        ("grüße\n", tc.ParameterType.STRING),
        (7, tc.ParameterType.INT),
        (-(2**63), tc.ParameterType.INT),
        (True, tc.ParameterType.BOOL),
        (0.5, tc.ParameterType.DOUBLE),
        (b"\0raw\0", tc.ParameterType.BYTES),
        (b"", tc.ParameterType.BYTES),
        (bytearray(b"raw"), tc.ParameterType.BYTES),
        (memoryview(b"raw"), tc.ParameterType.BYTES),
    ],
)
def test_parameters_of_every_type(library: tc.Library, value: Any, kind: tc.ParameterType) -> None:
    assert parameter_type(value) == kind
    with tc.Parameter("name", value) as parameter:
        assert parameter.name == "name"
        assert parameter.pointer


@pytest.mark.parametrize("value", [None, [], {}, 1j])
def test_no_parameter(library: tc.Library, value: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        tc.Parameter("name", value)


def test_a_type_that_triton_does_not_know(library: tc.Library) -> None:
    assert not library.api.ParameterNew(b"name", 99, None)


def test_an_array_lives_for_one_call(library: tc.Library) -> None:
    with parameter_array(library, {"a": 1, "b": "x"}) as (array, count):
        assert count == len(array) == 2
        assert all(array)
    with parameter_array(library, {}) as (array, count):
        assert (count, len(array)) == (0, 0)
    with pytest.raises(TypeError), parameter_array(library, {"a": 1, "b": None}):  # type: ignore[dict-item]
        pass


@pytest.mark.parametrize("value", [{}, [], [1, {"a": "grüße"}], "text", 7, None, {"deep": [[[[0.5]]]]}])
def test_json_goes_through_a_message(library: tc.Library, value: Any) -> None:
    with tc.Message.from_json(value) as message:
        assert message.json() == value
        assert message.json() == value, "reading does not use it up"
        assert isinstance(message.text(), str)


def test_a_large_message(library: tc.Library) -> None:
    value = {str(index): "x" * 100 for index in range(10_000)}
    with tc.Message.from_json(value) as message:
        assert message.json() == value


def test_what_is_no_json(library: tc.Library) -> None:
    with pytest.raises(TypeError):
        tc.Message.from_json(object())
    # Triton keeps the text as it is, and does not look at it before it needs it.
    with tc.Message(library.api.MessageNewFromSerializedJson(b"{", 1), library) as message:
        assert message.text() == "{"
        with pytest.raises(ValueError, match="Expecting"):
            message.json()


def test_a_message_that_was_taken_is_deleted(library: tc.Library) -> None:
    text = b'{"a": 1}'
    assert take_json(library, library.api.MessageNewFromSerializedJson(text, len(text))) == {"a": 1}


def test_a_closed_message(library: tc.Library) -> None:
    message = tc.Message.from_json({})
    message.close()
    with pytest.raises(ClosedError, match="this message is closed"):
        message.text()


def test_parameters_reach_the_model_repository(server: tc.Server) -> None:
    with pytest.raises(TritonError, match="failed to load"):
        server.load("add_sub", {"config": True})
    assert server.model_ready("add_sub")


def test_memory_of_bytes_is_ours(library: tc.Library) -> None:
    # Triton does not copy the bytes of a parameter: the wrapper has to keep them.
    source = np.arange(1000, dtype=np.uint8)
    with tc.Parameter("file:x", memoryview(source)) as parameter:
        held = ctypes.string_at(ctypes.addressof(parameter._held), 1000)
        source[:] = 0
        assert held == ctypes.string_at(ctypes.addressof(parameter._held), 1000) == bytes(i % 256 for i in range(1000))


def test_invalid_argument_is_an_error(library: tc.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.api, "ParameterNew", lambda *_: None)
    with pytest.raises(InvalidArgError, match="no parameter 'name' of type INT"):
        tc.Parameter("name", 1)
