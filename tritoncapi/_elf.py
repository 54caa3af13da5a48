"""Whether a file is a shared library that the loader can be trusted with: of a damaged one it dies, without a word."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

from .errors import NotATritonError

_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64"}
_HEADER = 64  # bytes of a 64-bit ELF header
_SEGMENT, _DYNAMIC = 56, 2  # bytes of a row that describes a segment; the type of the one that the loader reads first


def check_elf(path: Path) -> None:
    """Raises NotATritonError for a file that is no shared library of this machine's architecture."""
    header = _read(path, 0, 20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise NotATritonError(f"{path} is no shared library (not an ELF file)")
    kind, machine = struct.unpack_from(_order(header) + "HH", header, 16)
    name = _MACHINES.get(machine, f"machine {machine}")
    if kind != 3:
        raise NotATritonError(f"{path} is no shared library (ELF type {kind})")
    if name != platform.machine():
        raise NotATritonError(f"{path} is built for {name}, this machine is {platform.machine()}")


def check_whole(path: Path) -> None:
    """Raises NotATritonError for a library that is cut short, or zeros in places, as a broken copy or download is."""
    check_elf(path)
    header, size = _read(path, 0, _HEADER), path.stat().st_size
    if len(header) < _HEADER:
        raise _cut(path, size, _HEADER)
    order = _order(header)
    segments_at, sections_at = struct.unpack_from(order + "QQ", header, 32)
    step, count, section_step, section_count = struct.unpack_from(order + "HHHH", header, 54)
    if step != _SEGMENT or not count:
        raise NotATritonError(f"{path} is damaged (its ELF header describes no segments); copy or install it again")
    due = max(segments_at + step * count, sections_at + section_step * section_count)
    if size < due:
        raise _cut(path, size, due)
    rows = _read(path, segments_at, step * count)
    tables = [(sections_at, section_step * section_count)]
    for kind, _flags, offset, _virtual, _physical, length in struct.iter_unpack(order + "IIQQQQ16x", rows):
        due = max(due, offset + length)
        if kind == _DYNAMIC:
            tables.append((offset, length))
    if size < due:
        raise _cut(path, size, due)
    if len(tables) < 2 or not all(any(_read(path, at, length)) for at, length in tables if length):
        raise NotATritonError(f"{path} is damaged (zeros in place of its tables); copy or install it again")


def _order(header: bytes) -> str:
    return "<" if header[5] == 1 else ">"


def _read(path: Path, at: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), length, at)
    except OSError as error:
        raise NotATritonError(f"{path} cannot be read: {error.strerror}") from error


def _cut(path: Path, size: int, due: int) -> NotATritonError:
    return NotATritonError(f"{path} is cut short ({size} of {due} bytes or more); copy or install it again")
