"""perf's sides in processes of their own, since one process holds one Triton: the near end, and the far end's main."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from harness.errors import LacksError, UsageError
from harness.journal import Journal
from harness.processes import text

from ._perf_plan import Point, Step, longest
from ._perf_run import LocalSide, SideDied

_PR_SET_PDEATHSIG = 1
_STARTING = 120.0  # seconds to start a server and load its models
_LOG_LINES = 20


class RemoteSide:
    """A side whose server is in another process, which takes steps one by one."""

    def __init__(self, options: Mapping[str, Any], name: str, folder: Path, journal: Journal) -> None:
        self.name = name
        self._journal = journal
        self._folder = folder / f"side-{name}"
        self._folder.mkdir()
        self._patience = longest(options) + 2 * options["patience"] + 60
        ours, theirs = socket.socketpair()
        with theirs, (self._folder / "stderr.txt").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scenarios._perf_remote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        self._file: IO[str] = ours.makefile("rw", encoding="utf-8")
        setting = {"options": dict(options), "side": name, "folder": str(self._folder), "parent": os.getpid()}
        self._send(setting)

    def started(self) -> None:
        """Waits until the server is there. Raises UsageError, LacksError, SideDied."""
        self._answer(_STARTING)

    def measure(self, step: Step) -> dict[str, Any]:
        """The step's figures. Raises SideDied."""
        self._send(asdict(step))
        return dict(self._answer(self._patience))

    def close(self) -> None:
        """Has the server stopped, and waits for the end of its process."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(self._patience)
            for line in self._file:
                self._note(json.loads(line))
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self._journal.write("stop", text=f"side {self.name}: its process did not end", seconds=30)
            self.process.kill()
            self.process.wait()
        with suppress(OSError):
            self._file.close()
        self._socket.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()
        except OSError:
            raise self._died() from None

    def _note(self, message: Mapping[str, Any]) -> None:
        """Writes down an event of the other process."""
        fields = {key: value for key, value in message["fields"].items() if key not in ("event", "time_ns")}
        self._journal.write(message["event"], **{"side": self.name, **fields})

    def _answer(self, patience: float) -> Any:
        self._socket.settimeout(patience)
        try:
            for line in self._file:
                message = json.loads(line)
                if "event" in message:
                    self._note(message)
                elif "error" in message:
                    raise {"usage": UsageError, "lacks": LacksError}.get(message["kind"], SideDied)(message["error"])
                else:
                    return message["answer"]
        except TimeoutError:
            self.process.send_signal(signal.SIGUSR1)  # its stacks go to stderr.txt
            log = self._log()
            self.process.kill()
            self.process.wait()
            text_ = f"side {self.name} did not answer for {patience:g} s"
            raise SideDied(text_, side=self.name, signal="", log=log) from None
        except OSError:
            pass
        raise self._died()

    def _died(self) -> SideDied:
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else ""
        how = f"crashed with {name}" if name else f"ended early with code {code}"
        return SideDied(f"Triton of side {self.name} {how}", side=self.name, signal=name, code=code, log=self._log())

    def _log(self) -> list[str]:
        return [*text(self._folder / "triton.log").splitlines(), *text(self._folder / "stderr.txt").splitlines()][
            -_LOG_LINES:
        ]


@contextmanager
def serving(options: Mapping[str, Any], name: str, folder: Path, journal: Journal) -> Iterator[RemoteSide]:
    """A side with its server started. Raises UsageError, LacksError, SideDied."""
    journal.phase(f"starting side {name}")
    side = RemoteSide(options, name, folder, journal)
    try:
        side.started()
        yield side
    finally:
        journal.phase(f"stopping side {name}")
        side.close()


# In the other process


class _Relay(Journal):
    """A journal whose events go to the process that keeps the run's."""

    def __init__(self, file: IO[str]) -> None:
        self.ask_for_stacks = lambda: None
        self._to = file
        self._mutex = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Sends one event."""
        self.send({"event": event, "fields": fields})

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a line."""
        with self._mutex:
            self._to.write(json.dumps(message, default=str) + "\n")
            self._to.flush()


def main(line: socket.socket) -> int:
    """Serves one side until the other end says no more."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    file = line.makefile("rw", encoding="utf-8")
    relay = _Relay(file)
    setting = json.loads(file.readline())
    if os.getppid() != setting["parent"]:
        return 1
    from . import _perf_capi, _triton  # noqa: PLC0415 - after the signals are set

    options, folder, side = setting["options"], Path(setting["folder"]), setting["side"]
    orderly = True
    try:
        library = _triton.open_library(options["ab"] if side == "B" else options["triton"], relay)
        with _perf_capi.serving(options, side, library, folder, relay) as bench:
            relay.send({"answer": "started"})
            local = LocalSide(bench, options, relay)
            for message in file:
                fields = json.loads(message)
                found = local.measure(Step(**{**fields, "point": Point(**fields["point"])}))
                relay.send({"answer": found})
        orderly = bench.orderly
    except UsageError as error:
        relay.send({"error": str(error), "kind": "usage"})
    except LacksError as error:
        relay.send({"error": str(error), "kind": "lacks"})
    except Exception as error:
        relay.send({"error": f"side {side}: {type(error).__name__}: {error}", "kind": "failed"})
        raise
    if not orderly:
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
