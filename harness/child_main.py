"""The child's side of ``harness.child``: calls the entry point and writes down how it went."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from .errors import LacksError, UsageError
from .journal import Journal
from .verdict import ExitCode

_PR_SET_PDEATHSIG = 1


def main(folder: Path, parent: int) -> int:
    """Runs the job in ``folder``; returns the exit code."""
    # Whatever happens to the parent: the child does not outlive it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return ExitCode.UNKNOWN
    stacks = (folder / "stacks.txt").open("w")
    faulthandler.enable(stacks, all_threads=True)
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    job = json.loads((folder / "job.json").read_text())
    journal = Journal(folder / "journal.jsonl")
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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
