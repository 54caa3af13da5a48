"""perf's client processes, as seen from the process that counts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import LacksError
from harness.processes import text

from ._perf_client import Lines
from ._perf_run import SideDied

CLIENT = "client"  # what died, when it is not the server
_STARTING = 60.0  # seconds for a client to import what it needs


def require_client(protocol: str) -> None:
    """Raises LacksError without the client's packages."""
    needed = {"grpc": ("tritonclient", "grpc"), "http": ("tritonclient", "gevent", "geventhttpclient")}[protocol]
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise LacksError(
            f"--protocol {protocol} needs tritonclient: pip install 'tritonclient[{protocol}]' "
            "(or 'tritoncapi-harness[clients]')"
        )


class ClientProcess:
    """One client, as seen from here."""

    def __init__(self, folder: Path, number: int, setup: Mapping[str, Any]) -> None:
        self.number = number
        self.errors = folder / f"client-{number}.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scenarios._perf_client"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # One thread each: those of NumPy's libraries would only be in the way.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"},
            )
        assert self.process.stdout is not None
        self.lines = Lines(self.process.stdout.fileno())
        self.send(setup)

    def started(self) -> None:
        """Waits until it is ready. Raises SideDied."""
        if self.lines.next(_STARTING) is None:
            if not self.lines.ended:
                self.process.kill()
            raise self.died()

    def send(self, message: Mapping[str, Any]) -> None:
        """Tells it something. Raises SideDied when it is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise self.died() from None

    def died(self) -> SideDied:
        """It ended though nobody told it to."""
        lines = [line for line in text(self.errors).splitlines() if line.strip()]
        why = f": {lines[-1]}" if lines else ""
        code = self.process.wait()
        return SideDied(f"client process {self.number} ended early with code {code}{why}", what=CLIENT, log=lines[-20:])

    def close(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
