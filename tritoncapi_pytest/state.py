"""What the plugin knows in one pytest process: its Triton, and where Triton's log goes."""

from __future__ import annotations

import os
import re
import traceback
import uuid
from pathlib import Path
from typing import Any

import pytest

import tritoncapi as tc
from tritoncapi import log
from tritoncapi.errors import LibraryError, NoTritonError

LINES = 400  # of the log, in a failure
_TITLE = re.compile(r"\.cc:\d+\] ?$")  # of a table: the line itself says nothing
SECTIONS: pytest.StashKey[list[tuple[str, str]]] = pytest.StashKey()
"""What a failure of this item shall show besides the log: title and text."""
_STATE: pytest.StashKey[State] = pytest.StashKey()


def of(config: pytest.Config) -> State:
    """The process's."""
    if _STATE not in config.stash:
        config.stash[_STATE] = State(config)
    return config.stash[_STATE]


def check_options(config: pytest.Config) -> None:
    """Raises pytest.UsageError for options that cannot be followed."""
    path = config.getoption("triton")
    if path is not None:
        try:
            tc.find(path)
        except LibraryError as error:
            raise pytest.UsageError(f"--triton: {error}") from None
        config.option.triton = os.path.abspath(os.path.expanduser(path))
    if config.getoption("triton_log") is not None:
        file = _log_file(config)
        if not file.parent.is_dir():
            raise pytest.UsageError(f"--triton-log {config.getoption('triton_log')}: there is no folder {file.parent}")
        try:
            file.open("w").close()
        except OSError as error:
            raise pytest.UsageError(f"--triton-log {file}: {error.strerror}") from None
        config.option.triton_log = os.path.abspath(config.option.triton_log)


def folder(config: pytest.Config, name: str) -> Path:
    """A new folder that pytest keeps for a while, as it does with those of ``tmp_path``."""
    factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
    return factory.mktemp(name)


def _log_file(config: pytest.Config) -> Path:
    """Where the log goes; each of pytest-xdist's workers has a file of its own."""
    given = config.getoption("triton_log")
    if given is None:
        return folder(config, "triton-log") / "triton.log"
    path = Path(given).expanduser().absolute()
    if path.is_dir():
        path /= "triton.log"
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    return path.with_name(f"{path.stem}-{worker}{path.suffix}") if worker else path


def _load(path: str | None) -> tc.Library:
    wrong = ""
    try:
        return tc.load(path)
    except LibraryError as error:
        wrong = str(error)
    pytest.fail(wrong, pytrace=False)


class State:
    """One process's Triton and its log, both from the first use on."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.path: str | None = config.getoption("triton")
        self.shm_prefix = f"tritoncapi_{os.getpid()}_{uuid.uuid4().hex[:8]}_"
        """Shared memory of our servers' Python models begins with this."""
        self._library: tc.Library | None = None
        self._log: Path | None = None
        self._begin = 0

    @property
    def log(self) -> Path:
        """The file of Triton's log."""
        if self._log is None:
            self._log = _log_file(self.config)
        return self._log

    def lack(self) -> str:
        """Why there is no Triton, or nothing."""
        try:
            tc.find(self.path)
        except NoTritonError as error:
            return str(error)
        except LibraryError:  # a wrong $TRITONCAPI_TRITON is no lack: loading it says so
            return ""
        return ""

    def library(self) -> tc.Library:
        """Loads Triton and lets its log go to the file; skips the test where there is none."""
        if self._library is None:
            if lack := self.lack():
                pytest.skip(lack)
            self._library = _load(self.path)
            log.configure(file=self.log, library=self._library)
        return self._library

    def begin(self) -> None:
        """What is logged from now on belongs to a new test."""
        self._begin = self._size()

    def logged(self) -> str:
        """The lines that came since ``begin``, for people."""
        if self._size() <= self._begin:
            return ""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            return excerpt(file.read().decode(errors="replace").splitlines(), self.log)

    def append(self, lines: str) -> None:
        """Adds what a process of its own has logged."""
        if lines and self.config.getoption("triton_log") is not None:
            with self.log.open("a") as file:
                file.write(lines)

    def explain(self, item: pytest.Item, report: Any) -> None:
        """Adds to a failure what the item has to say, and the log."""
        for title, text in item.stash.get(SECTIONS, []):
            attach(report, title, text)
        item.stash[SECTIONS] = []
        attach(report, "Triton log", self.logged())

    def _size(self) -> int:
        if self._log is None:
            return 0
        try:
            return self._log.stat().st_size
        except OSError:
            return 0


def excerpt(lines: list[str], where: str | Path) -> str:
    """The last lines, without the tables that each server begins with, and where the others are."""
    plain = [line for line in lines if line and line[0] not in "+|" and not _TITLE.search(line)]
    shown = plain[-LINES:]
    if not lines:
        return ""
    note = [f"({len(lines)} lines, of which {len(shown)} are shown: {where})"] if len(shown) < len(lines) else []
    return "\n".join([*note, *shown])


def let_go(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Clears the variables of a failed test, which its traceback keeps: no server stops while one has an output."""
    if call.excinfo is None or item.config.getoption("usepdb", False):
        return
    errors: list[BaseException | None] = [call.excinfo.value]
    for error in errors:  # which grows
        if error is not None and error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)
            for frame, _ in traceback.walk_tb(error.__traceback__):
                frame.f_locals  # noqa: B018 - until Python 3.12 a frame keeps what was last read here
            errors += [one for one in (error.__cause__, error.__context__) if one not in errors]


class Failed(Exception):
    """What was found out in another process; the text is for people, and needs no traceback."""

    __module__ = "builtins"  # whose exceptions are named without their module


def failure(why: str) -> Any:
    """What a report says of a failure that was no exception here."""
    try:
        raise Failed(why)
    except Failed as error:
        return pytest.ExceptionInfo.from_exception(error).getrepr(style="value")


def attach(report: Any, title: str, text: str) -> None:
    """Adds a section to a failure, so that it shows on the terminal and in JUnit's XML alike."""
    if not text:
        return
    if hasattr(report.longrepr, "addsection"):
        report.longrepr.addsection(title, text, "-")
    elif isinstance(report.longrepr, str):
        report.longrepr += f"\n{f' {title} ':-^80}\n{text}"
    else:
        report.sections.append((title, text))
