"""Names on their way to C."""

from __future__ import annotations


def c_name(name: str, whose: str) -> bytes:
    """The name as C takes it. Raises TypeError for what is no str, ValueError for a NUL, where C would end it."""
    try:
        encoded = name.encode()
    except AttributeError:
        raise TypeError(f"{whose} name is a str, not {type(name).__name__}: {name!r}") from None
    if b"\0" in encoded:
        raise ValueError(f"{whose} name has no NUL in it: {name!r}")
    return encoded
