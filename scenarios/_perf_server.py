"""A ``tritonserver`` process on loopback: started on free ports, asked over HTTP, stopped by SIGTERM."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.errors import LacksError
from harness.processes import text, until
from tritoncapi import Triton

from ._perf_run import SideDied

HOST = "127.0.0.1"
_TRIES = 5  # other ports are taken when somebody was faster
_IN_USE = "already in use"
_STARTING = 120.0  # seconds to load the models
_LOG_LINES = 20
_LINE = 300  # characters


def binary(triton: Triton) -> Path:
    """The server's program. Raises LacksError where this Triton has none."""
    path = triton.server
    if path is None:
        raise LacksError(
            f"this Triton has no server program ({triton.root / 'bin' / 'tritonserver'}): --protocol http and grpc "
            "need one; give --triton the root of a whole Triton, or use --protocol c-api"
        )
    return path


class TritonServer:
    """A running server. ``name`` is its side; ``arguments`` are more of the program's own."""

    def __init__(
        self,
        name: str,
        triton: Triton,
        folder: Path,
        *,
        repository: Path,
        backends: Path,
        models: Sequence[str],
        arguments: Sequence[str] = (),
        ports: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """Starts it and waits until it is ready. Raises SideDied with its last log lines when it does not start."""
        self.name = name
        self.log = folder / f"tritonserver-{name}.log"
        self._id = f"tritoncapi-{uuid.uuid4().hex[:12]}"
        command = [
            str(binary(triton)),
            f"--id={self._id}",
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--cache-directory={triton.caches}",
            f"--repoagent-directory={triton.repoagents}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            f"--http-address={HOST}",
            f"--grpc-address={HOST}",
            "--allow-metrics=false",
            *arguments,
        ]
        environment = {**os.environ, "LD_LIBRARY_PATH": _library_path(triton)}
        for _ in range(_TRIES):
            self.http, self.grpc = (ports or free_ports)()
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    [*command, f"--http-port={self.http}", f"--grpc-port={self.grpc}"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
            try:
                if self._comes_up():
                    return
            except BaseException:
                self.stop()
                raise
        raise SideDied(f"tritonserver {name} found its ports taken {_TRIES} times", side=name, log=self.last_lines())

    def _comes_up(self) -> bool:
        """True when it is ready, False when another process was faster to its ports. Raises SideDied."""
        ready = until(lambda: self.process.poll() is not None or self._is_ready(), _STARTING)
        if self.process.poll() is not None:
            if _IN_USE in text(self.log):
                return False
            raise self.died()
        if not ready:
            raise SideDied(f"tritonserver {self.name} was not ready after {_STARTING:g} s", log=self.last_lines())
        return True

    def _is_ready(self) -> bool:
        try:
            # Whoever has the port must be ours, and not another server that had it before.
            return self.get("/v2")["name"] == self._id and self._status("/v2/health/ready") == 200
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return False

    def get(self, path: str) -> Any:
        """What it answers to GET, as JSON. Raises OSError, ValueError, HTTPException."""
        status, body = self._ask(path)
        if status != 200:
            raise ValueError(f"{path}: HTTP {status}: {body.decode(errors='replace')}")
        return json.loads(body)

    def model(self, name: str, what: str = "") -> Any:
        """A model's metadata, ``config`` or ``stats``. Raises SideDied when the server does not say."""
        try:
            return self.get(f"/v2/models/{quote(name)}" + (f"/{what}" if what else ""))
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not until(lambda: self.process.poll() is not None, 1.0):
                raise SideDied(f"tritonserver {self.name}: {error}", side=self.name, log=self.last_lines()) from error
            raise self.died() from error

    def _status(self, path: str) -> int:
        return self._ask(path)[0]

    def _ask(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.http, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def died(self) -> SideDied:
        """What became of it, after it ended."""
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else ""
        how = f"crashed with {name}" if name else f"ended with code {code}"
        lines = self.last_lines()
        why = "" if name else self._why()
        return SideDied(f"tritonserver {self.name} {how}{why}", side=self.name, signal=name, code=code, log=lines)

    def last_lines(self) -> list[str]:
        """The end of its log."""
        return [line[:_LINE] for line in text(self.log).splitlines() if line.strip()][-_LOG_LINES:]

    def stop(self, patience: float = 30.0) -> str:
        """SIGTERM, and SIGKILL when it does not end in time. Says what was wrong with its end, if anything was."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            if not _ends(self.process, patience):
                self.process.kill()
                self.process.wait()
                return f"tritonserver {self.name} did not end within {patience:g} s of SIGTERM, and was killed"
        code = self.process.wait()
        return "" if code == 0 else f"tritonserver {self.name} ended with {_ending(code)}{self._why()}"

    def _why(self) -> str:
        """The last complaint of its log."""
        lines = reversed(self.last_lines())
        return next((f": {line}" for line in lines if line[:1] == "E" or "failed" in line or "error" in line), "")


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"


def _ends(process: subprocess.Popen[bytes], patience: float) -> bool:
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(patience * 1000))
    finally:
        os.close(descriptor)


def _library_path(triton: Triton) -> str:
    """This Triton's libraries before those of another one that this process may have loaded."""
    rest = os.environ.get("LD_LIBRARY_PATH", "")
    return os.pathsep.join(part for part in (str(triton.library.parent), rest) if part)


def free_ports() -> tuple[int, int]:
    """Two ports of loopback that nobody had a moment ago."""
    found = []
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind((HOST, 0))
            found.append(one.getsockname()[1])
    return found[0], found[1]


def statistics(server: TritonServer, model: str) -> Sequence[Mapping[str, Any]]:
    """Triton's statistics of all versions of a model. Raises SideDied."""
    rows = server.model(model, "stats")["model_stats"]
    assert isinstance(rows, list)
    return rows
