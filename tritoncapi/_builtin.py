"""Builtins of Python's made of native functions: between two requests a call through ctypes costs too much."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_void_p
from typing import Any

Call = Callable[[int], int | None]
"""``void *f(void *)``, which runs without the interpreter lock."""


class _Method(ctypes.Structure):
    """``PyMethodDef``, which lives as long as the builtins that are made of it."""

    _fields_ = [("name", c_char_p), ("function", c_void_p), ("flags", c_int), ("doc", c_char_p)]


_methods: list[_Method] = []
_METH_O, _METH_FASTCALL = 0x8, 0x80


def _address(function: Any) -> int:
    address = ctypes.cast(function, c_void_p).value
    assert address
    return address


def builtins_of(dll: ctypes.CDLL) -> Callable[[str, str], Any]:
    """Makes builtins of functions that take addresses and return one, or None for NULL (native/builtin.c)."""
    python = ctypes.pythonapi
    names = (
        *("PyEval_SaveThread", "PyEval_RestoreThread", "PyLong_AsVoidPtr", "PyLong_FromVoidPtr", "Py_IncRef"),
        *("PyErr_Occurred", "PyErr_SetString"),
    )
    addresses = [_address(getattr(python, name)) for name in names] + [id(None), id(TypeError)]
    dll.tc_python_bind((c_void_p * len(addresses))(*addresses))
    make = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, ctypes.py_object, c_void_p)(("PyCFunction_NewEx", python))

    def builtin(kind: str, name: str) -> Any:
        flags = _METH_O if kind == "unlocked" else _METH_FASTCALL
        method = _Method(name.encode(), _address(getattr(dll, "tc_call_" + kind)), flags, None)
        _methods.append(method)
        return make(ctypes.addressof(method), _address(getattr(dll, "tc_" + name)), None)

    return builtin
