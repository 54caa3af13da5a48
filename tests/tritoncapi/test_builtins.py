"""Native functions as builtins of Python's: what is no address is an error, as with any builtin."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

import tritoncapi as tc

HOT = ("call_run", "many_run", "once_run")


@pytest.mark.parametrize("name", HOT)
@pytest.mark.parametrize("wrong", ["text", 1.5, None, b"x"])
def test_an_address_is_a_number(library: tc.Library, name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match="integer"):
        getattr(library.native, name)(wrong)
    with pytest.raises(OverflowError):
        getattr(library.native, name)(1 << 70)


@pytest.mark.parametrize("name", HOT)
def test_each_takes_one_address(library: tc.Library, name: str) -> None:
    for wrong in ((), (1, 2)):
        with pytest.raises(TypeError, match="one argument"):
            getattr(library.native, name)(*wrong)
    with pytest.raises(TypeError, match="keyword"):
        getattr(library.native, name)(run=1)


def test_each_has_its_name(library: tc.Library) -> None:
    for name in (*HOT, "run_put_aside"):
        assert getattr(library.native, name).__name__ == name


@pytest.mark.parametrize("place", range(3))
def test_addresses_that_may_be_none(library: tc.Library, place: int) -> None:
    arguments: list[Any] = [None, None, None]
    arguments[place] = "text"
    with pytest.raises(TypeError, match="integer"):
        library.native.run_put_aside(*arguments)
    for wrong in ((), (None, None), (None,) * 4):
        with pytest.raises(TypeError, match="3 addresses"):
            library.native.run_put_aside(*wrong)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None has no count of references since Python 3.12")
def test_no_reference_is_lost(requests: list[tc.InferenceRequest]) -> None:
    request = requests[0]
    request.infer().close()
    gc.collect()
    before = sys.getrefcount(None)
    for _ in range(1000):
        request.infer().close()
    assert abs(sys.getrefcount(None) - before) < 500
