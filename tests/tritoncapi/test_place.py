"""Places: a GPU's number is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tritoncapi as tc


def test_gpu() -> None:
    assert [str(tc.gpu(0)), str(tc.gpu(3))] == ["gpu:0", "gpu:3"]
    number: Any = np.int64(2)
    assert tc.gpu(number) == tc.gpu(2)


@pytest.mark.parametrize(
    ("device", "error", "text"),
    [
        (-5, ValueError, "there is no GPU -5: they count from 0"),
        ("0", TypeError, "a GPU is named by an int, not str: '0'"),
        (1.0, TypeError, "not float"),
        (None, TypeError, "not NoneType"),
    ],
)
def test_a_gpu_that_is_none(device: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        tc.gpu(device)
