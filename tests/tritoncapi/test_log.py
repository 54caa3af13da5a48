"""Triton's log: its settings belong to the process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tritoncapi as tc
from tritoncapi import log

INFO, WARN, ERROR, VERBOSE = tc.LogLevel


@pytest.fixture(autouse=True)
def _as_before(library: tc.Library) -> Iterator[None]:
    levels = [log.is_enabled(level) for level in (INFO, WARN, ERROR)]
    yield
    log.configure(file="", info=levels[0], warn=levels[1], error=levels[2], verbose=0, format=tc.LogFormat.DEFAULT)


def test_levels(library: tc.Library) -> None:
    for on in (False, True):
        log.configure(info=on, warn=not on, error=on, verbose=int(not on))
        assert [log.is_enabled(level) for level in tc.LogLevel] == [on, not on, on, not on]
    log.configure()  # changes nothing
    assert [log.is_enabled(level) for level in tc.LogLevel] == [True, False, True, False]


def test_lines_go_into_the_file(library: tc.Library, tmp_path: Path) -> None:
    file = tmp_path / "log"
    log.configure(file=file, info=True, warn=False, error=True, verbose=0)
    log.write(INFO, "first line", "here.py", 12)
    log.write(WARN, "not this")
    log.write(ERROR, "grüße")
    log.write(VERBOSE, "nor this")
    log.configure(verbose=1)
    log.write(VERBOSE, "but this")
    lines = file.read_text().splitlines()
    assert [line[0] for line in lines] == ["I", "E", "I"]
    assert re.search(r'here\.py:12\] "first line"$', lines[0])
    assert "tritoncapi:0" in lines[1]
    assert "gr" in lines[1]
    assert lines[2].endswith('"but this"')


def test_the_format(library: tc.Library, tmp_path: Path) -> None:
    file = tmp_path / "log"
    log.configure(file=str(file), info=True, format=tc.LogFormat.ISO8601)
    log.write(INFO, "new")
    log.configure(format=tc.LogFormat.DEFAULT)
    log.write(INFO, "old")
    new, old = file.read_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", new)
    assert re.match(r"I\d{4} ", old)


def test_back_to_stderr(library: tc.Library, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    log.configure(file=file, info=True)
    log.write(INFO, "into the file")
    log.configure(file="")
    log.write(INFO, "to stderr")
    assert "into the file" in file.read_text()
    assert "to stderr" not in file.read_text()
    captured = capfd.readouterr()
    assert "to stderr" in captured.err + captured.out


def test_a_file_that_cannot_be(library: tc.Library, tmp_path: Path) -> None:
    with pytest.raises(tc.errors.TritonError):
        log.configure(file=tmp_path / "no" / "folder" / "log")


def test_a_servers_options_set_it_too(make_server: object, server: tc.Server, tmp_path: Path) -> None:
    file = tmp_path / "log"
    log.configure(file=file, info=True)
    log.write(INFO, "x", library=server.library)
    assert "x" in file.read_text()
