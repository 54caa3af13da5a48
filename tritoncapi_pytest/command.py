"""``tritoncapi-harness`` as a script, for a parent that may go away: this then ends as by SIGTERM, and cleans up."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, *words = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):
        del sys.path[0]  # the script's folder: its files are no modules of their own
        from harness.cli import main

        main(words, prog_name="tritoncapi-harness")
