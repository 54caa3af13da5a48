"""The child process: however it ends, the parent says how, and nothing stays behind."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from harness import child, journal
from harness.processes import until, users

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def run(name: str, folder: Path, timeout: float = 20, **parameters: object) -> child.Ended:
    return child.run(child.Job(f"null_system:{name}", parameters, timeout), folder)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_orderly_end(tmp_path: Path) -> None:
    ended = run("fine", tmp_path, text="ü", number=3)
    assert (ended.how, ended.code, ended.phase) == ("ended", 0, "working")
    echo = journal.last(ended.events, "echo")
    assert echo is not None
    assert echo["parameters"] == {"text": "ü", "number": 3}
    assert journal.last(ended.events, "end")
    assert ended.leftovers == []


@pytest.mark.parametrize(("name", "number"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
def test_crash_is_reported_with_signal_and_stacks(tmp_path: Path, name: str, number: str) -> None:
    ended = run(name, tmp_path)
    assert (ended.how, ended.signal) == ("crashed", number)
    assert "null_system.py" in ended.stacks
    assert journal.last(ended.events, "end") is None


def test_hang_is_ended_with_stacks(tmp_path: Path) -> None:
    ended = run("hang", tmp_path, timeout=1.5)
    assert ended.how == "hung"
    assert ended.phase == "waiting for ever"
    assert "null_system.py" in ended.stacks
    assert "wait" in ended.stacks
    assert "Threads of " in ended.stacks


def test_child_can_ask_for_its_stacks(tmp_path: Path) -> None:
    ended = run("asks_for_stacks", tmp_path)
    assert ended.how == "ended"
    assert "asks_for_stacks" in ended.stacks


def test_stacks_without_py_spy_and_gdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.stacks._spy", lambda _pid: "")
    monkeypatch.setattr("harness.stacks._gdb", lambda _pid: "")
    ended = run("hang", tmp_path, timeout=1.5)
    assert "null_system.py" in ended.stacks
    assert "waits in" in ended.stacks


def test_what_was_made_elsewhere_is_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "litter_old").mkdir()
    made = tmp_path / "litter_new"
    job = child.Job("null_system:makes_a_folder", {"path": str(made)}, 20, {f"{tmp_path}/litter_*": "libnobody.so"})
    ended = child.run(job, tmp_path / "run")
    assert (ended.leftovers, ended.litter) == ([], [str(made)])  # nobody can say that it was this child
    assert not made.exists()
    assert (tmp_path / "litter_old").exists()  # it was there before


def test_what_may_be_another_runs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    made = tmp_path / "litter_new"
    library = tmp_path / "libsomebody.so"
    library.write_bytes(bytes(4096))
    job = child.Job("null_system:makes_a_folder", {"path": str(made)}, 20, {f"{tmp_path}/litter_*": library.name})
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert users(library.name) == [os.getpid()]
        assert child.run(job, tmp_path / "run").litter == []
    assert made.exists()


def test_kill_of_the_child_is_a_result(tmp_path: Path) -> None:
    def kill(_passed: float) -> None:
        event = journal.last(journal.read(tmp_path / "journal.jsonl"), "grandchild")
        if event is not None:
            os.kill(psutil.Process(event["pid"]).ppid(), signal.SIGKILL)

    ended = child.run(child.Job("null_system:hang_with_children", {}, 20), tmp_path, kill)
    grandchild = journal.last(ended.events, "grandchild")
    assert (ended.how, ended.signal) == ("crashed", "SIGKILL")
    assert grandchild is not None
    assert gone(grandchild["pid"])
    assert any(str(grandchild["pid"]) in entry for entry in ended.leftovers)


def test_files_of_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert run("fine", tmp_path / "run").code == 0


def test_hang_takes_its_children_along(tmp_path: Path) -> None:
    ended = run("hang_with_children", tmp_path, timeout=1.5)
    grandchild = journal.last(ended.events, "grandchild")
    assert grandchild is not None
    assert gone(grandchild["pid"])
    assert any(str(grandchild["pid"]) in entry for entry in ended.leftovers)


def test_what_is_left_behind_is_found_and_removed(tmp_path: Path) -> None:
    prefix = f"tritoncapi_test_{uuid.uuid4().hex}_"
    ended = run("leaves_things", tmp_path, shm_prefix=prefix)
    grandchild = journal.last(ended.events, "grandchild")
    assert grandchild is not None
    assert gone(grandchild["pid"])
    assert not list(Path("/dev/shm").glob(prefix + "*"))
    text = "\n".join(ended.leftovers)
    assert "shared memory" in text
    assert "temporary file forgotten" in text
    assert str(grandchild["pid"]) in text


def test_broken_harness_is_not_a_pass(tmp_path: Path) -> None:
    ended = run("raises", tmp_path)
    broken = journal.last(ended.events, "broken")
    assert broken is not None
    assert broken["text"] == "RuntimeError: the harness is broken"
    assert ended.code == 3
    assert journal.last(ended.events, "end") is None


@pytest.mark.parametrize(("name", "event", "code"), [("usage", "usage", 2), ("lacks", "lacks", 4)])
def test_reasons_not_to_begin(tmp_path: Path, name: str, event: str, code: int) -> None:
    ended = run(name, tmp_path)
    assert ended.code == code
    assert journal.last(ended.events, event)


def test_leaving_at_once_does_not_wait_for_threads(tmp_path: Path) -> None:
    ended = run("leaves_at_once", tmp_path)
    assert (ended.how, ended.code) == ("ended", 0)
    assert journal.last(ended.events, "end")


def test_exit_without_a_word_is_noticed(tmp_path: Path) -> None:
    ended = run("exits", tmp_path)
    assert (ended.how, ended.code, ended.phase) == ("ended", 7, "leaving")
    assert journal.last(ended.events, "end") is None


PARENT = """
import sys
from pathlib import Path
from harness import child
try:
    child.run(child.Job("null_system:hang_with_children", {}, 60), Path(sys.argv[1]))
except child.Interrupted:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_end_of_the_parent_ends_the_child(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    path = tmp_path / "journal.jsonl"
    assert until(lambda: journal.last(journal.read(path), "phase") is not None, 20)
    event = journal.last(journal.read(path), "grandchild")
    assert event is not None
    processes = [*psutil.Process(parent.pid).children(recursive=True)]
    assert len(processes) >= 2
    os.kill(parent.pid, number)
    out, _ = parent.communicate(timeout=20)
    child_process = next(p for p in processes if p.pid != event["pid"])
    assert until(lambda: gone(child_process.pid), 10)
    assert until(lambda: gone(event["pid"]), 10)
    assert until(lambda: not (tmp_path / "tmp").exists(), 10)
    if number != signal.SIGKILL:
        assert out == "interrupted\n"


def test_a_second_ctrl_c_does_not_stop_the_clearing_up(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    path = tmp_path / "journal.jsonl"
    assert until(lambda: journal.last(journal.read(path), "phase") is not None, 20)
    (event,) = journal.all_of(journal.read(path), "grandchild")
    os.kill(parent.pid, signal.SIGINT)
    assert until(lambda: gone(event["pid"]) or parent.poll() is not None, 20)
    with suppress(ProcessLookupError):
        os.kill(parent.pid, signal.SIGINT)
    parent.communicate(timeout=20)
    assert gone(event["pid"])
    assert not (tmp_path / "tmp").exists()
