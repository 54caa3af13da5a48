"""Life cycles of servers a second, by the number of threads; with the probes and without, side by side."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile

from .startup import SCRIPT

THREADS = (1, 2, 4, 8, 16)
CYCLES = 160  # of a run, over all threads
ROUNDS = 5


def rate(threads: int, *words: str) -> float:
    """Life cycles a second of one run, from the first ServerNew to the last ServerDelete."""
    with tempfile.TemporaryDirectory() as folder:
        command = [SCRIPT, "multiserver", "-t", str(threads), "-l", str(CYCLES // threads), "--runs", folder]
        done = subprocess.run([*command, "--json", "-", *words], capture_output=True, text=True, check=True)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    figures = checks["concurrency"]["evidence"]
    return float(figures["cycles"] / figures["seconds"])


def main() -> None:
    """A row for each number of threads: medians of interleaved runs, and the medians of the pairs' ratios."""
    print(f"\nlife cycles of servers, native backend, {CYCLES} a run, medians of {ROUNDS} interleaved rounds")
    print("  threads   with probes   without   with/without   against 1 thread")
    pairs: dict[int, list[tuple[float, float]]] = {threads: [] for threads in THREADS}
    for _ in range(ROUNDS):
        for threads in THREADS:
            pairs[threads].append((rate(threads), rate(threads, "--no-probes")))
    for threads in THREADS:
        probed, bare = (statistics.median(column) for column in zip(*pairs[threads], strict=True))
        cost = statistics.median(a / b for a, b in pairs[threads])
        gain = statistics.median(a / one for (a, _), (one, _) in zip(pairs[threads], pairs[1], strict=True))
        print(f"  {threads:>7}   {probed:>9.0f}/s   {bare:>5.0f}/s   {cost:>12.2f}   {gain:>16.2f}")
