"""Reports as pure functions of saved runs: page, JUnit XML, JSON, and the commands that write them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import saved_runs
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from saved_runs import HOSTILE, SECOND, cells, operations, sampled, save, steps

from harness import cli, runner
from harness.report.document import SCHEMA, document
from harness.report.junit import junit
from harness.report.page import page
from harness.report.plain import visible

VOID = {"meta", "img", "br", "link", "input"}


class Outline(HTMLParser):
    """Elements of a page: every tag closed in its turn, every id once, every link to an id that is there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert {link[1:] for link in self.links} <= set(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value))
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made(*folders: Path) -> str:
    return page([runner.judge(folder) for folder in folders])


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


# The page


def test_page_has_verdict_checks_command_and_parts(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "run",
        [{"event": "phase", "time_ns": 1, "name": "running"}, *operations(20, bad=[3]), *steps()],
        sampled(40),
        {"log": ["E1121 12:00:00 something bad"], "stacks": "Thread 1\n  poll", "errors": ["a warning"]},
        name="perf",
        budgets={"descriptors": 0.02, "heap_in_use": 1 << 20},
        checks=[
            ["values", "fail", "5 instead of 4", {"first": {"index": 0}, "count": 3}],
            ["gpu", "skipped", "no GPU"],
        ],
    )
    text = made(folder)
    outline = Outline(text)
    for part in ("checks", "latency", "series", "timeline", "figures", "stacks", "log", "environment"):
        assert f"run1-{part}" in outline.ids
    assert "<title>FAIL: perf" in text
    assert text.index("5 instead of 4") < text.index("ended by itself after")  # what failed comes first
    for words in (
        "tritoncapi-harness matrix -q",
        "E1121 12:00:00 something bad",
        "3.11.7",
        "NVML: no driver",
        "99 %",
        "fitted slope",
        "thread 3",
        "operations under way at once: at most 4",
    ):
        assert words in text, words
    assert made(folder) == text  # a pure function of the folder


def test_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    text = made(save(tmp_path / "run", cells() + steps(), sampled(5)))
    outline = Outline(text)
    assert not {"link", "iframe", "object", "embed", "img", "base"} & set(outline.tags)
    assert not [a for a in outline.attributes if a[1] == "src" or a[1].startswith("on") or a[1] == "style"]
    assert all(link.startswith("#") for link in outline.links)
    assert "http" not in re.sub(r'http-equiv="', "", text)
    # All that a person needs is there before any script ran; what only the script can do is hidden until then.
    assert re.search(r'<button type="button" class="copy" hidden>', text)
    assert '<div class="filters" hidden>' in text


def test_page_is_inert_against_hostile_strings(tmp_path: Path) -> None:
    events = [
        *cells(HOSTILE),
        {"cell": HOSTILE, "outcome": HOSTILE, "axes": {HOSTILE: HOSTILE}, "expected": HOSTILE, "reproduce": HOSTILE},
        {"event": "phase", "time_ns": 5, "name": HOSTILE},
        {"event": "fault", "time_ns": 6, "name": HOSTILE},
        {
            "event": "op",
            "worker": HOSTILE,
            "number": HOSTILE,
            "kind": HOSTILE,
            "start_ns": 3,
            "time_ns": 9,
            "text": HOSTILE,
        },
        {
            "event": "step",
            HOSTILE: "x",
            "protocol": HOSTILE[:50],
            "percentiles_us": {HOSTILE: 3.0},
            "histogram_ns": [[1, 1]],
        },
    ]
    samples = [{"time_ns": n, HOSTILE: n, "missing": {HOSTILE + "2": HOSTILE}} for n in range(3)]
    ended = {
        "log": [HOSTILE, "E1" + HOSTILE],
        "errors": [HOSTILE],
        "stacks": HOSTILE,
        "how": "crashed",
        "signal": HOSTILE,
    }
    folder = save(tmp_path / "run", events, samples, ended, checks=[[HOSTILE, "fail", HOSTILE, {HOSTILE: [HOSTILE]}]])
    described = json.loads((folder / "run.json").read_text())
    described |= {name: {HOSTILE: HOSTILE} for name in ("versions", "machine", "environment")}
    described |= {"command": HOSTILE, "started": HOSTILE}
    (folder / "run.json").write_text(json.dumps(described))
    text = made(folder)
    outline = Outline(text)
    assert outline.tags.count("script") == 2  # ours, and the cells' data
    assert not {"img"} & set(outline.tags)
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    assert "{{ 7 * 7 }} ]]" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", text)
    assert "\u241b[31mred\u2400" in text
    policy = next(value for _, name, value in outline.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_every_cell_that_needs_a_look_has_its_evidence_and_its_command(tmp_path: Path) -> None:
    text = made(save(tmp_path / "run", cells(), checks=[["cells", "fail", "1 of 144 failed"]]))
    outline = Outline(text)
    name = "in=gpu:0,model=cpu,out=gpu:0,datatype=bytes,backend=native"
    number = next(n for n, cell in enumerate(cells()) if cell["cell"] == name)
    assert f"#run1-cell-{number}" in outline.links  # one click from the top
    article = text[text.index(f'id="run1-cell-{number}"') :]
    article = article[: article.index("</article>")]
    assert "16 of 16 values are wrong: zeros" in article
    assert f"tritoncapi-harness matrix --only {name}" in article
    table = text[text.index('<table class="map">') : text.index("</table>", text.index('<table class="map">'))]
    assert table.count("<td") == 6 * 4
    assert re.search(r'class="spot fail"[^>]*><a href="#run1-spot-4-2"><b>1 fail</b><small>of 6</small>', table)
    assert table.count("known defect") == 3


def test_cells_without_axes_and_with_odd_ones(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"event": "cell", "cell": "in=cpu,out=gpu:0", "outcome": "fail"},
        {"event": "cell", "cell": "in=cpu,out=gpu:0", "outcome": "pass"},  # the last counts
        {"event": "op", "value": {"cell": "in=cpu,out=gpu:10", "outcome": "strange"}},
        {"event": "cell", "cell": "plain", "outcome": "unexpected_pass", "evidence": ["one", "two"], "ms": "long"},
        {"event": "cell", "cell": 7, "outcome": "pass"},
        {"event": "cell", "cell": "in='; rm -rf /'", "outcome": "fail"},
    ]
    text = made(save(tmp_path / "run", lines))
    Outline(text)
    report = document([runner.judge(tmp_path / "run")])
    assert {cell["cell"]: cell["outcome"] for cell in report["runs"][0]["cells"]} == {
        "in=cpu,out=gpu:0": "pass",
        "in=cpu,out=gpu:10": "unknown",
        "plain": "unexpected_pass",
        "in='; rm -rf /'": "fail",
    }
    assert (
        report["runs"][0]["cells"][-1]["reproduce"] == """tritoncapi-harness matrix --only 'in='"'"'; rm -rf /'"'"''"""
    )


def test_steps_percentiles_from_histograms_and_names(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"event": "step", "protocol": "grpc", "histogram_ns": [[2000, 1], [1000, 99]]},
        {"event": "step", "protocol": "grpc", "percentiles_us": {"p50": 5}, "series": [[0, 10], [2, 30], "x", [None]]},
        {"event": "step", "histogram_ns": "none", "series": 7, "throughput": "many"},
    ]
    report = document([runner.judge(save(tmp_path / "run", lines))])["runs"][0]
    assert [step["name"] for step in report["steps"]] == ["step protocol=grpc", "step protocol=grpc (2)", "step"]
    assert report["steps"][0]["percentiles_us"] == {
        "p50": 1.0, "p90": 1.0, "p95": 1.0, "p99": 1.0, "p99.9": 2.0, "p99.99": 2.0
    }  # fmt: skip
    assert report["figures"]["step protocol=grpc us p99.9"] == 2.0
    Outline(made(tmp_path / "run"))


def test_slope_is_the_checks_own_and_not_drawn_over_other_samples(tmp_path: Path) -> None:
    folder = save(tmp_path / "one", [], sampled(40), budgets={"descriptors": 0.02})
    text = made(folder)
    assert text.count('class="line fit"') == 1
    assert text.count('class="area band"') == 1
    assert text.count('class="dot data"') == 40
    told = {"figure": "descriptors", "slope": 1.0, "low": 0.9, "high": 1.1, "samples": 39, "warm_up_samples": 0}
    folder = save(tmp_path / "two", [], sampled(40), checks=[["growth of descriptors", "fail", "it grows", told]])
    assert 'class="line fit"' not in made(folder)


def test_a_run_that_was_cut_off_shows_what_was_under_way(tmp_path: Path) -> None:
    events = [*operations(5, 2), {"event": "invoke", "time_ns": 2 * SECOND, "worker": 1, "number": 5}]
    folder = save(tmp_path / "run", events, ended={})
    (folder / "journal.jsonl").write_text((folder / "journal.jsonl").read_text()[:-10] + '{"event": "op", "wor')
    text = made(folder)
    Outline(text)
    assert "its end was not seen" in text
    assert "number 5: unfinished" in text
    assert "under way at once: at most 2" in text


def test_big_runs_stay_small_and_say_what_was_left_out(tmp_path: Path) -> None:
    events = operations(2500, 4, bad=[700])
    folder = save(tmp_path / "run", events, sampled(6000, every=100), {"log": ["I1121 a line of the log " * 20] * 4000})
    text = made(folder)
    assert len(text) < 1_000_000
    assert "lowest and highest in each of 600 spans" in text
    assert "the last 200 of 4,000 lines" in text
    assert "drawn as one bar, in the colour of the worst" in text
    assert 'class="bar fail"' in text  # what failed is seen whatever is left out
    wide = save(tmp_path / "wide", operations(20, 200, bad=[3]))
    assert "64 of 200 threads are drawn" in made(wide)
    assert len(made(wide)) < 1_000_000


def test_many_cells_stay_small(tmp_path: Path) -> None:
    lines = [{"cell": f"in=cpu,out=gpu:{n % 8},n={n}", "outcome": "pass"} for n in range(10_000)]
    text = made(save(tmp_path / "run", [*lines, {"cell": "in=cpu,out=gpu:0,n=-1", "outcome": "fail"}]))
    assert len(text) < 2_000_000
    assert "The 3000 worst of 10001 cells are listed" in text
    assert "--only in=cpu,out=gpu:0,n=-1" in text


def test_overview_of_several_runs(tmp_path: Path) -> None:
    save(tmp_path / "good", operations(2))
    save(tmp_path / "bad", checks=[["values", "fail", "all wrong"]])
    text = made(tmp_path / "good", tmp_path / "bad")
    outline = Outline(text)
    assert "<title>FAIL: 2 runs" in text
    assert {"#run1", "#run2"} <= set(outline.links)
    assert text.index(">good<") < text.index('id="run1-title"')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
NAMES = [
    "event",
    "time_ns",
    "start_ns",
    "worker",
    "number",
    "kind",
    "value",
    "cell",
    "axes",
    "outcome",
    "ms",
    "evidence",
]
NAMES += [
    "throughput",
    "percentiles_us",
    "histogram_ns",
    "series",
    "name",
    "alive",
    "cycles",
    "missing",
    "label",
    "rss",
]
LINES = st.lists(
    st.dictionaries(
        st.sampled_from(NAMES),
        JSON | st.sampled_from(["op", "invoke", "step", "phase", "fault", "fail", "ok"]) | st.integers(0, 50)
        | st.lists(st.lists(st.integers(-5, 50), max_size=5), max_size=4),
        max_size=9,
    ),
    max_size=8,
)  # fmt: skip


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink one takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=LINES, samples=LINES)
def test_no_history_breaks_a_report(tmp_path: Path, events: list[Any], samples: list[Any]) -> None:
    result = runner.judge(save(tmp_path / "run", events, samples))
    Outline(page([result]))
    ET.fromstring(junit([result]))
    jsonschema.validate(document([result]), json.loads(SCHEMA.read_text()))


def test_visible() -> None:
    assert (
        visible("a\x00\x1b[0m\tb\r\nc\rd\x7f\ud800\ufffe\u202e")
        == "a\u2400\u241b[0m\tb\nc\u240dd\u2421\ufffd\ufffd\ufffd"
    )
    assert visible(3) == "3"


# JUnit XML and JSON


def test_junit_has_a_case_for_each_check(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "run",
        ended={"log": [HOSTILE]},
        checks=[
            ["values", "fail", HOSTILE, {"why": HOSTILE, "count": 3}],
            ["values", "unknown", "not seen"],
            ["gpu", "skipped", "no GPU"],
        ],
    )
    suites = ET.fromstring(junit([runner.judge(folder)]))
    (suite,) = suites
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "1", "errors": "1", "skipped": "1"
    }  # fmt: skip
    assert [suites.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ["process", "values", "values (2)", "gpu"]
    failure = cases["values"].find("failure")
    assert failure is not None
    assert "count: 3" in (failure.text or "")
    assert "\u241b[31mred" in (failure.get("message") or "")
    assert cases["values (2)"].find("error") is not None
    assert cases["gpu"].find("skipped") is not None
    assert "\u2400" in (suite.findtext("system-err") or "")


def test_junit_of_a_run_that_checked_nothing_is_not_green(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", checks=[["gpu", "skipped", "no GPU"]])
    result = runner.judge(folder)
    result = runner.Result(result.scenario, result.run, result.checks[1:], folder, result.described)
    suite = ET.fromstring(junit([result]))[0]
    assert suite.get("errors") == "1"
    assert [case.get("name") for case in suite.iter("testcase")] == ["gpu", "verdict"]


def test_json_is_of_its_schema(tmp_path: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    save(tmp_path / "one", [*cells(), *steps(), *operations(3)], sampled(40), budgets={"descriptors": 0.02})
    save(
        tmp_path / "two", ended={}, checks=[["odd", "unknown", "x", {"infinite": float("inf"), "path": [1, {"a": 2}]}]]
    )
    for words in (
        ["report", tmp_path / "one", tmp_path / "two"],
        ["recheck", tmp_path / "one"],
        ["recheck", tmp_path / "two"],
        ["diff", tmp_path / "one", tmp_path / "two"],
    ):
        invoke(*words, "--json", tmp_path / "out.json")
        text = (tmp_path / "out.json").read_text()
        found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        jsonschema.validate(found, schema)
        (tmp_path / "out.json").unlink()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "exit_code": 7}, schema)
    assert "Infinity" not in text


# The commands


def test_report_writes_beside_the_run_and_says_where(tmp_path: Path) -> None:
    folder = save(tmp_path / "run")
    done = invoke("report", folder)
    assert (done.exit_code, done.output) == (0, f"{folder}/report.html\n")
    Outline((folder / "report.html").read_text())
    done = invoke("report", folder, folder, "--html", tmp_path / "a.html", "--junit", tmp_path / "b.xml", "--json", "-")
    assert done.exit_code == 0
    assert len(json.loads(done.output)["runs"]) == 1  # named twice, it is one run still
    assert (tmp_path / "a.html").exists()
    assert (tmp_path / "b.xml").exists()


def test_report_refuses_what_it_cannot_do_in_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path / "run")
    for words, said in (
        (["report", "/nowhere"], "there is no such folder"),
        (["report", folder, "/nowhere"], "there is no such folder"),
        (["report", tmp_path], "holds no run"),
        (["report", folder, "--html", "/nowhere/x"], "--html /nowhere/x: cannot be written"),
        (["report", folder, "--junit", "-"], "only --json can go to standard output"),
        (["report", folder, "--html", tmp_path / "x", "--junit", tmp_path / "x"], "--html writes there too"),
        (["diff", folder, "/nowhere"], "there is no such folder"),
    ):
        done = invoke(*words)
        assert done.exit_code == 2
        assert len(done.output.splitlines()) == 1
        assert said in done.output
    assert not (tmp_path / "x").exists()
    done = invoke("report", folder, "--html", "/dev/full", "--junit", tmp_path / "b.xml")
    assert done.exit_code == 4
    assert done.output == "Error: --html /dev/full: No space left on device; the result is lost there\n"
    assert (tmp_path / "b.xml").exists()  # one that is lost does not take another with it


@pytest.mark.parametrize(("verdict", "code"), [("pass", 4), ("fail", 1), ("unknown", 3)])
def test_a_file_that_is_lost_does_not_take_the_verdict_with_it(tmp_path: Path, verdict: str, code: int) -> None:
    folder = save(tmp_path / "run", checks=[["values", verdict, "this is why"]])
    done = invoke("recheck", "-q", folder, "--json", "/dev/full")
    assert done.exit_code == code
    first, second = done.output.splitlines()
    assert first.startswith(f"matrix: {verdict.upper()} - ")
    assert second == "Error: --json /dev/full: No space left on device; the result is lost there"


def test_recheck_quiet_is_the_verdict_only(tmp_path: Path) -> None:
    done = invoke("recheck", "-q", save(tmp_path / "run"))
    assert (done.exit_code, done.output) == (0, "matrix: PASS - 2 checks passed\n")


RUN = """
import click, sys
from harness.command import run_and_report, run_options
from harness.options import json_option

@click.command()
@click.option("--name")
@json_option
@run_options
def command(**options):
    own = {name: options.pop(name) for name in ("json_file", "runs", "quiet", "in_process")}
    assert set(options) == {"name"}, options
    run_and_report("null_scenario:build", {**options, "timeout": 60}, own)

command()
"""
SCENARIO = """
import threading
from harness.endings import process_check
from harness.scenario import Scenario
from harness.verdict import failed

def load(context, invoke, settled):
    if context.options["name"] == "hang":
        context.journal.write("waiting")
        threading.Event().wait()

def build(options):
    bad = [lambda run: [failed("values", "all wrong")]] if options["name"] == "bad" else []
    return Scenario("null", load=load, checkers=[process_check, *bad])
"""


def start(folder: Path, name: str, *more: str) -> subprocess.Popen[str]:
    (folder / "null_scenario.py").write_text(SCENARIO)
    root = str(Path(saved_runs.__file__).parents[2])
    files = ["--html", "page.html", "--junit", "junit.xml", "--json", "run.json", "--runs", "runs"]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, "--name", name, "-q", *files, *more],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{folder}:{root}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("name", "code"), [("good", 0), ("bad", 1)])
def test_every_scenario_command_writes_reports(tmp_path: Path, name: str, code: int) -> None:
    process = start(tmp_path, name)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    assert len(out.splitlines()) == 1
    Outline((tmp_path / "page.html").read_text())
    assert ET.parse(tmp_path / "junit.xml").getroot().get("failures") == str(code)
    jsonschema.validate(json.loads((tmp_path / "run.json").read_text()), json.loads(SCHEMA.read_text()))


def test_an_interrupted_run_is_reported_too(tmp_path: Path) -> None:
    process = start(tmp_path, "hang")
    deadline = 60.0
    from harness.processes import until

    assert until(lambda: any("waiting" in p.read_text() for p in tmp_path.glob("runs/*/journal.jsonl")), deadline)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "interrupted; what was measured is in" in out
    assert "its end was not seen" in (tmp_path / "page.html").read_text()
    assert ET.parse(tmp_path / "junit.xml").getroot().get("errors") == "1"
    assert json.loads((tmp_path / "run.json").read_text())["verdict"] == "unknown"
