"""The faults that the test backend can plant, by name, as backend/faults.c has them: to refuse others before a run."""

from __future__ import annotations

import re

_PERIOD, _BYTES, _MEMORY = "[:k]", ":bytes", ":cpu|pinned|gpu"
_ANY_MEMORY, _DATATYPE = f"[{_MEMORY}]", "[:datatype]"
_DATATYPES = "bool|u?int(8|16|32|64)|fp(16|32|64)|bf16|bytes"
FAULTS = {
    "fail_model_init": "",
    "fail_instance_init": "",
    "fail_execute": "",
    "fail_request": _PERIOD,
    "wrong_values": _DATATYPE,
    "zero_output": "",
    "wrong_preferred": _MEMORY,
    "wrong_reported": _MEMORY,
    "wrong_shape": "",
    "ignore_host_policy": "",
    "wrong_device": _ANY_MEMORY,
    "drop_chunk": "",
    "drop_output": "",
    "leak_host": _BYTES,
    "leak_gpu": _BYTES,
    "leak_host_load": _BYTES,
    "leak_gpu_load": _BYTES,
    "leak_fd": "",
    "leak_fd_load": "",
    "no_answer": "",
    "never_release": "",
    "answer_twice": "",
    "hang": "",
    "hang_finalize": "",
    "crash": "",
    "abort": "",
    "crash_init": "",
    "log_copy_error": "",
}
"""Name -> what follows it: nothing, a period, a number of bytes, a kind of memory, a datatype."""
_VALUES = {
    "": re.compile(""),
    _PERIOD: re.compile(r"(:0*[1-9]\d*)?"),
    _BYTES: re.compile(r":0*[1-9]\d*"),
    _MEMORY: re.compile(r":(cpu|pinned|gpu)"),
    _ANY_MEMORY: re.compile(r"(:(cpu|pinned|gpu))?"),
    _DATATYPE: re.compile(f"(:({_DATATYPES}))?"),
}


def names(text: str) -> list[str]:
    """The names in a list of faults (``crash``, ``leak_host:4096,hang``). Raises ValueError for one that is none."""
    found = []
    for word in text.split(","):
        name, colon, value = word.strip().partition(":")
        if name not in FAULTS:
            known = ", ".join(known + rule for known, rule in FAULTS.items())
            raise ValueError(f"unknown fault {name!r}; the known ones are {known}")
        if not _VALUES[FAULTS[name]].fullmatch(colon + value):
            raise ValueError(f"malformed fault {word.strip()!r}; it is written {name}{FAULTS[name]}")
        found.append(name)
    return found
