"""The reference: c_loop.c, built with the system's compiler, in a process of its own with the same model.

Where there is no compiler, ``TRITONCAPI_C_LOOP`` names the program built elsewhere.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tritoncapi import Triton

SOURCE = Path(__file__).with_name("c_loop.c")
FLAGS = ("-std=gnu11", "-O3", "-Wall", "-Wextra", "-Wshadow", "-pthread")


@dataclass(frozen=True)
class Run:
    """What one run gave: requests a second, and the mean latency in microseconds."""

    rate: float
    latency_us: float


class CLoop:
    """The running program; idle, it costs nothing."""

    def __init__(self, folder: Path, triton: Triton, model: str, *, elements: int = 16, gpu: int | None = None) -> None:
        program = os.environ.get("TRITONCAPI_C_LOOP") or str(folder / "c_loop")
        if not os.path.exists(program):
            compiler = os.environ.get("CC", "cc")
            subprocess.run([compiler, *FLAGS, "-o", program, SOURCE, "-ldl"], check=True)
        device = () if gpu is None else (str(gpu),)
        libraries = f"{triton.library.parent}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}"
        self._process = subprocess.Popen(
            [program, triton.library, folder / "repository", folder / "backends", model, str(elements), *device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
        )

    def run(self, threads: int, concurrency: int, seconds: float, *, together: bool = False) -> Run:
        """``threads`` keep ``concurrency`` requests each in flight; or send as many ``together``, and wait for all."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{threads} {concurrency} {seconds} {int(together)}\n")
        self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        if len(words) != 3:
            raise RuntimeError(f"c_loop ended with exit code {self._process.wait()}")
        return Run(int(words[0]) / float(words[1]), float(words[2]) / 1000)

    def __enter__(self) -> CLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
