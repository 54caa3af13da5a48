"""The runner with a null system: roles, history, verdicts, saved runs."""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness import cli, endings, journal, runner
from harness.child import Ended
from harness.errors import UsageError
from harness.load import Barrier, InTurn, Lasting
from harness.probes import Probe
from harness.scenario import Context, Invoke, Operation, Outcome, Run, Scenario
from harness.verdict import Check, Verdict, passed
from harness.workers import together


class Counter:
    def __init__(self) -> None:
        self.operations = 0
        self.lock = threading.Lock()


@contextmanager
def system(_context: Context) -> Iterator[Counter]:
    yield Counter()


def workload(counter: Counter, operation: Operation) -> Outcome:
    with counter.lock:
        counter.operations += 1
    if operation == Operation(1, 2):
        raise RuntimeError("the workload is broken")
    return Outcome("fail" if operation.number == 1 else "ok", {"square": operation.number**2})


def note(context: Context, _system: Any, over: Callable[[], bool]) -> None:
    context.journal.write("acted", over=over())


def broken_fault(_context: Context, _system: Any, _over: Callable[[], bool]) -> None:
    raise OSError("no such thing to break")


def count(run: Run) -> Sequence[Check]:
    return [passed("count", f"{len(run.operations)} operations")]


def broken_checker(_run: Run) -> Sequence[Check]:
    raise ZeroDivisionError("oh")


def probes(_context: Context, _system: Any) -> Sequence[Probe]:
    return [Probe("one", lambda: {"one": 1})]


def build(options: Mapping[str, Any]) -> Scenario:
    return Scenario(
        name="null",
        system=system,
        workload=workload,
        load=Barrier(2, 3, rounds=3),
        faults=[note, broken_fault] if options.get("faults") else [],
        probes=probes,
        planted=options.get("planted", ""),
        checkers=[endings.process_check, count, *([broken_checker] if options.get("broken") else [])],
    )


def nothing(_options: Mapping[str, Any]) -> Scenario:
    return Scenario(name="nothing", checkers=[endings.process_check])


def here(tmp_path: Path, **options: Any) -> runner.Result:
    where = f"{__name__}:build"
    return runner.run(where, options, tmp_path, timeout=30, in_process=True)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_history_has_every_operation(tmp_path: Path) -> None:
    result = here(tmp_path)
    kinds = {(op["worker"], op["number"]): op["kind"] for op in result.run.operations}
    assert kinds == {(0, 0): "ok", (0, 1): "fail", (0, 2): "ok", (1, 0): "ok", (1, 1): "fail", (1, 2): "unknown"}
    broken = next(op for op in result.run.operations if op["kind"] == "unknown")
    assert "RuntimeError: the workload is broken" in broken["text"]
    assert len(journal.all_of(result.run.ended.events, "invoke")) == 6
    assert [event["operations"] for event in journal.all_of(result.run.ended.events, "settled")] == [0, 2, 4, 6]
    labelled = [sample for sample in result.run.samples if sample.get("label") == "settled"]
    assert [sample["cycles"] for sample in labelled] == [0, 2, 4, 6]


def test_in_a_child_the_same(tmp_path: Path) -> None:
    result = runner.run("test_runner:build", {}, tmp_path, timeout=30)
    assert result.verdict == Verdict.PASS
    assert len(result.run.operations) == 6
    assert runner.judge(tmp_path).checks == result.checks


def killing(_system: Any, operation: Operation) -> Outcome:
    if operation.number % 3 == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome("ok", {"pid": os.getpid()})


def go_on(ended: Ended) -> Mapping[str, Any] | None:
    done = len(journal.all_of(ended.events, "invoke"))
    return {"done": done} if done < 5 else None


def rest(options: Mapping[str, Any]) -> Scenario:
    def load(_context: Context, invoke: Invoke, _settled: Callable[[], None]) -> None:
        for number in range(options["done"], options["last"]):
            invoke(Operation(0, number))

    return Scenario("rest", workload=killing, load=load, checkers=[endings.process_check], resume=go_on)


@pytest.mark.parametrize(("last", "verdict", "done"), [(4, Verdict.PASS, [0, 2, 3]), (6, Verdict.FAIL, [0, 2, 3])])
def test_after_a_crash_another_child_goes_on(last: int, verdict: Verdict, done: list[int], tmp_path: Path) -> None:
    result = runner.run("test_runner:rest", {"done": 0, "last": last}, tmp_path, timeout=30)
    events = result.run.ended.events
    assert [op["number"] for op in result.run.operations] == done
    assert len({op["value"]["pid"] for op in result.run.operations}) == 2
    assert [event["signal"] for event in journal.all_of(events, runner.CRASHED)] == ["SIGKILL"]
    assert result.verdict == verdict
    assert runner.judge(tmp_path).checks == result.checks


def test_broken_checker_is_unknown(tmp_path: Path) -> None:
    result = here(tmp_path, broken=True)
    assert result.verdict == Verdict.UNKNOWN
    assert "ZeroDivisionError: oh" in result.checks[-1].sentence


def test_faults_are_in_the_history(tmp_path: Path) -> None:
    events = here(tmp_path, faults=True).run.ended.events
    assert journal.all_of(events, "acted")
    states = {(event["name"], event["state"]) for event in journal.all_of(events, "fault")}
    assert {("note", "begins"), ("note", "ends"), ("broken_fault", "broken")} <= states


def test_a_fault_that_could_not_act_or_was_not_seen_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    result = here(tmp_path / "one", faults=True)
    assert result.verdict == Verdict.UNKNOWN
    assert any(check.name == "fault broken_fault" and "could not act" in check.sentence for check in result.checks)
    (tmp_path / "two").mkdir()
    result = here(tmp_path / "two", planted="crash")
    assert result.verdict == Verdict.UNKNOWN
    assert result.checks[-1].sentence == "crash was planted, and no check saw anything of it"


def test_do_nothing_scenario_passes_only_its_process(tmp_path: Path) -> None:
    result = runner.run(f"{__name__}:nothing", {}, tmp_path, timeout=30, in_process=True)
    assert [check.name for check in result.checks] == ["process"]
    assert result.run.operations == []


def ended(**changes: Any) -> Run:
    events = [
        {"event": "phase", "name": "running"},
        {"event": "invoke", "worker": 3, "number": 1},
        {"event": "end"},
    ]
    full: dict[str, Any] = {"how": "ended", "code": 0, "seconds": 1.0, "events": events, **changes}
    return Run({}, Ended(**full))


BUSY = [{"event": "invoke", "worker": 0, "number": 0}, {"event": "phase", "name": "stopping"}]


@pytest.mark.parametrize(
    ("changes", "verdict", "text"),
    [
        ({}, Verdict.PASS, "ended by itself"),
        ({"how": "crashed", "signal": "SIGSEGV", "code": -11}, Verdict.FAIL, "SIGSEGV while running (thread 3 loop 1)"),
        ({"how": "hung"}, Verdict.FAIL, "hung while running"),
        ({"how": "lost", "code": None}, Verdict.UNKNOWN, "cut off"),
        ({"events": []}, Verdict.FAIL, "ended early"),
        ({"how": "hung", "events": BUSY}, Verdict.FAIL, "hung while stopping; ended after"),
        ({"events": [{"event": "broken", "text": "E: x", "traceback": ""}]}, Verdict.UNKNOWN, "the harness failed"),
    ],
)
def test_process_check(changes: dict[str, Any], verdict: Verdict, text: str) -> None:
    (check,) = endings.process_check(ended(**changes))
    assert check.verdict == verdict
    assert text in check.sentence


def test_leftovers_check() -> None:
    (check,) = endings.leftovers_check(ended())
    assert check.verdict == Verdict.PASS
    for how in ("ended", "crashed"):
        (check,) = endings.leftovers_check(ended(how=how, leftovers=["process 7 (stub)"]))
        assert check.verdict == Verdict.FAIL
        assert check.sentence == "left behind, and removed: process 7 (stub)"
    assert endings.leftovers_check(ended(how="crashed")) == []
    (check,) = endings.leftovers_check(ended(looked=False))  # --in-process
    assert check.verdict == Verdict.SKIPPED
    (check,) = endings.leftovers_check(ended(litter=["/tmp/python_env_x"]))
    assert check.verdict == Verdict.PASS
    assert "/tmp/python_env_x came up meanwhile" in check.sentence


def test_a_run_that_was_only_late_is_no_hang() -> None:
    began = {"event": "phase", "name": "running", "time_ns": 0}
    late = {"event": "op", "worker": 0, "number": 0, "time_ns": 9_000_000_000}
    (check,) = endings.process_check(ended(how="hung", seconds=10.0, events=[began, late]))
    assert check.verdict == Verdict.UNKNOWN
    assert "getting on: 1 operations were done, the last 1.0 s before" in check.sentence
    (check,) = endings.process_check(ended(how="hung", seconds=30.0, events=[began, late]))
    assert check.verdict == Verdict.FAIL


def test_damaged_history_is_unknown(tmp_path: Path) -> None:
    here(tmp_path)
    path = tmp_path / "journal.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"event": "died"}\n')
    (check,) = runner.judge(tmp_path).checks
    assert (check.verdict, check.sentence[:40]) == (Verdict.UNKNOWN, "1 lines of journal.jsonl have no event o")
    saved = json.loads((tmp_path / "ended.json").read_text())
    for edit in ({"history": "x"}, {"log": None}, {"stacks": []}):
        (tmp_path / "ended.json").write_text(json.dumps({**saved, **edit}))
        with pytest.raises(UsageError, match=f"ended.json: {next(iter(edit))} is no"):
            runner.judge(tmp_path)
    (tmp_path / "ended.json").write_text(json.dumps(saved))
    for part in ("", whole[: len(whole) // 2]):
        path.write_text(part)
        result = runner.judge(tmp_path)
        assert result.verdict == Verdict.UNKNOWN
        assert "events are left in journal.jsonl" in result.checks[0].sentence
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="holds no run that can be read"):
        runner.judge(tmp_path)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        runner.judge(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="holds no run"):
        runner.judge(tmp_path)
    for text in ("[]", "{}", '{"build": "no.such:build", "options": {}}', '{"build": 7, "options": {}}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UsageError, match=r"holds no run|names no scenario"):
            runner.judge(tmp_path)
    with pytest.raises(UsageError, match="nowhere: there is no such folder; give the folder"):
        runner.judge(Path("/nowhere"))


def test_recheck_of_nothing_is_one_line() -> None:
    done = CliRunner().invoke(cli.main, ["recheck", "/nowhere"])
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith("Error: /nowhere: there is no such folder; ")


def shown(result: runner.Result) -> list[str]:
    done = CliRunner().invoke(cli.main, ["recheck", str(result.folder)])
    return [line for line in done.output.splitlines() if not line.startswith("kept in")]


def speaking(_options: Mapping[str, Any]) -> Scenario:
    def after(_run: Run, verdict: Verdict) -> list[str]:
        return [f"after a {verdict.value}"]

    def proved(run: Run) -> str:
        return f"{len(run.operations)} done"

    load = InTurn(2)
    checkers = [count]
    return Scenario("loud", load=load, checkers=checkers, summary=lambda _: ["[x]"], appendix=after, proved=proved)


def test_scenario_has_its_own_words(tmp_path: Path) -> None:
    result = runner.run(f"{__name__}:speaking", {}, tmp_path, timeout=30, in_process=True)
    assert shown(result) == ["[x]", "  ok   count  2 operations", "after a pass", "loud: PASS - 2 done"]
    assert "journal" not in result.as_json()
    assert result.as_json()["exit_code"] == 0


def test_without_words_a_pass_counts_its_checks(tmp_path: Path) -> None:
    assert here(tmp_path).sentence == "2 checks passed"


def late(_options: Mapping[str, Any]) -> Scenario:
    class Disorderly:
        orderly = True

    @contextmanager
    def system(_context: Context) -> Iterator[Disorderly]:
        made = Disorderly()
        yield made
        made.orderly = False
        threading.Thread(target=threading.Event().wait).start()  # an orderly end would wait for it

    return Scenario("late", system=system, checkers=[endings.process_check])


def test_an_end_that_is_not_orderly_is_not_waited_for(tmp_path: Path) -> None:
    assert runner.run("test_runner:late", {}, tmp_path, timeout=30).run.ended.how == "ended"


def test_folders_of_runs(tmp_path: Path) -> None:
    made = [runner.new_folder(tmp_path / "runs", "x") for _ in range(3)]
    assert len(set(made)) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no run can be kept there"):
        runner.new_folder(tmp_path / "file", "x")


def test_run_says_what_it_was(tmp_path: Path) -> None:
    here(tmp_path)
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["scenario"] == "null"
    distributions = {name: metadata.version(name) for name in ("tritoncapi-harness", "numpy", "cuda-bindings")}
    assert described["versions"]["python"] == platform.python_version()
    assert distributions.items() <= described["versions"].items()
    assert described["machine"]["cpus"] > 0


# Loads and workers


def recorded(load: Callable[[Context, Invoke, Callable[[], None]], None]) -> tuple[list[Operation], int]:
    done: list[Operation] = []
    settled: list[int] = []
    load(None, done.append, lambda: settled.append(len(done)))  # type: ignore[arg-type]
    return done, len(settled)


def test_barrier_spreads_its_loops() -> None:
    done, settled = recorded(Barrier(3, 7, rounds=3))
    assert sorted((op.worker, op.number) for op in done) == [(w, n) for w in range(3) for n in range(7)]
    assert settled == 4
    assert recorded(Barrier(1, 1, rounds=10))[1] == 2


def test_lasting_ends_and_is_repeatable() -> None:
    began = time.monotonic()
    done, settled = recorded(Lasting(2, 0.3, loops=2, churn=0.02, stagger=0.001, seed=5))
    assert time.monotonic() - began < 5
    assert done
    assert settled > 1


def test_workers_run_at_once_and_raise() -> None:
    barrier = threading.Barrier(4)
    together(4, lambda _number: barrier.wait(10) and None)

    def one_fails(number: int) -> None:
        if number == 2:
            raise KeyError("two")

    with pytest.raises(KeyError, match="two"):
        together(3, one_fails)
