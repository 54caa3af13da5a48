"""Entry points for the child that need no Triton: each ends in another way."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from harness.errors import LacksError, UsageError
from harness.journal import Journal


def fine(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    journal.phase("working")
    journal.write("echo", parameters=parameters, folder=str(folder))


def segfault(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    journal.phase("crashing")
    os.kill(os.getpid(), signal.SIGSEGV)


def abort(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    os.abort()


def hang(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    journal.phase("waiting for ever")
    threading.Event().wait()


def hang_with_children(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    journal.write("grandchild", pid=process.pid)
    journal.phase("waiting for ever")
    threading.Event().wait()


def raises(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    raise RuntimeError("the harness is broken")


def usage(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    raise UsageError("no such thing")


def lacks(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    raise LacksError("no GPU")


def leaves_things(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    Path("/dev/shm", parameters["shm_prefix"] + "region").write_bytes(b"x")
    Path(tempfile.gettempdir(), "forgotten").write_text("x")
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    journal.write("grandchild", pid=process.pid)


def leaves_at_once(parameters: dict[str, Any], journal: Journal, folder: Path) -> bool:
    threading.Thread(target=threading.Event().wait).start()  # not a daemon: an orderly end would wait for it
    return False


def exits(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    journal.phase("leaving")
    os._exit(7)


def asks_for_stacks(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    journal.ask_for_stacks()


def makes_a_folder(parameters: dict[str, Any], journal: Journal, folder: Path) -> None:
    path = Path(parameters["path"])
    path.mkdir()
