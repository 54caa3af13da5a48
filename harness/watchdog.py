"""Clears up after a harness that was killed with its child running. A script by itself: it imports nothing of ours.

Standard input is a pipe from the harness: the child's process number, later ``over``. An end without that word means
that the harness is gone: then this ends the child's session, removes its shared memory and its temporary files.
"""

import os
import signal
import sys
import time

_TRIES = 500  # of 10 ms


def main(prefix: str, temporary: str) -> None:
    """Waits for the end of the harness."""
    words = sys.stdin.buffer.read().split()
    if len(words) != 1:  # no child was started, or it is over
        return
    leader = int(words[0])
    for _ in range(_TRIES):
        members = session(leader)
        if not members:
            break
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.01)
    if prefix:
        for name in os.listdir("/dev/shm"):
            if name.startswith(prefix):
                os.unlink(f"/dev/shm/{name}")
    import shutil  # noqa: PLC0415 - mostly not needed

    shutil.rmtree(temporary, ignore_errors=True)


def session(leader: int) -> list[int]:
    """Living processes of the session that ``leader`` began, itself among them."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", errors="replace") as file:
                stat = file.read()
        except OSError:
            continue
        state, _parent, _group, its_session = stat[stat.rindex(")") + 2 :].split()[:4]
        if int(its_session) == leader and state not in "ZX":
            found.append(int(entry))
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
