"""``python -m benchmarks [startup] [infer] [speed] ...``: ratios measured side by side in one run.

Absolute times are for context. Each pair runs in turn, A B A B, so that a machine whose speed drifts drifts for both;
the ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import os
import platform
import sys

from . import gpu, infer, lifecycles, memory, open_loop, speed, startup

ALL = {
    "startup": startup.main,
    "infer": infer.main,
    "speed": speed.main,
    "gpu": gpu.main,
    "open_loop": open_loop.main,
    "memory": memory.main,
    "lifecycles": lifecycles.main,
}


def main(names: list[str]) -> int:
    """Runs the benchmarks named, or all."""
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.stderr.write(f"Error: no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}\n")
        return 2
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    for name in names or ALL:
        ALL[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
