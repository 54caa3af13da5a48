"""The child's side of ``harness.child``: calls the entry point and writes down how it went."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from .errors import LacksError, UsageError
from .journal import Journal
from .verdict import ExitCode

_PR_SET_PDEATHSIG = 1
_STACKS_LIMIT = 60.0  # seconds


def main(folder: Path, parent: int, line: socket.socket) -> int:
    """Runs the job in ``folder``; returns the exit code."""
    # Whatever happens to the parent: the child does not outlive it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return ExitCode.UNKNOWN
    stacks = (folder / "stacks.txt").open("a")
    faulthandler.enable(stacks, all_threads=True)
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    job = json.loads((folder / "job.json").read_text())
    journal = Journal(folder / "journal.jsonl", ask_for_stacks=lambda: ask_for_stacks(line))
    module, _, function = job["entry"].partition(":")
    try:
        orderly = getattr(importlib.import_module(module), function)(job["parameters"], journal, folder)
    except UsageError as error:
        journal.write("usage", text=str(error))
        return ExitCode.USAGE
    except LacksError as error:
        journal.write("lacks", text=str(error))
        return ExitCode.LACKS
    except BaseException as error:
        journal.write("broken", text=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        return ExitCode.UNKNOWN
    journal.write("end")
    if orderly is False:
        # What could not be stopped still runs on its threads; the interpreter's end would wait for it, or crash in it.
        os._exit(ExitCode.PASS)
    return ExitCode.PASS


def ask_for_stacks(line: socket.socket) -> None:
    """Has the parent collect this process's stacks, which it cannot see itself, and waits until that is done."""
    line.settimeout(_STACKS_LIMIT)
    with suppress(OSError):  # the parent may be busy ending us
        line.send(b"s")
        line.recv(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))))
