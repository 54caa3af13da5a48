"""The pytest plugin as its users meet it: projects of their own, and pytest run on them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

import model_repos
from harness.cli import COMMANDS
from harness.processes import until
from tritoncapi_pytest.repository import Repository

ROOT = Path(__file__).parents[2]
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # pytester changes HOME
# An editable install's finder is imported before pytest could rewrite it, and pytest says so.
STRICT = ["-W", "error", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning", "--strict-markers"]
STRICT += ["-p", "no:hypothesispytest"]  # importing it takes half a second, in every process
OURS = "{'tritoncapi', 'harness', 'scenarios', 'model_repos', 'numpy', 'scipy', 'click', 'rich', 'psutil'}"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project."""
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "TRITONCAPI_RUNS"):
        monkeypatch.delenv(name, raising=False)
    return pytester


def run(project: pytest.Pytester, *words: str) -> tuple[dict[str, int], str]:
    """Runs pytest strictly; the outcomes by name, and what it printed."""
    done = project.runpytest_subprocess(*STRICT, *words)
    return done.parseoutcomes(), done.stdout.str() + done.stderr.str()


def section(output: str, test: str) -> str:
    """What the output says of one failed test."""
    head = rf"^__+ (?:ERROR at \w+ of )?{re.escape(test)} _+$"
    found = re.search(rf"{head}(.*?)(?=^__+ \S.* _+$|^=+ )", output, re.M | re.S)
    assert found, f"{test} did not fail:\n{output}"
    return found[1]


COMMON = """
import os, signal, subprocess, sys, threading
import model_repos, numpy as np, pytest
NATIVE = model_repos.folder("memalloc") / "add_sub_int32_native"
A = np.arange(16, dtype=np.int32).reshape(1, 16)
def use(triton_repository, triton_server, allocator=None, **parameters):
    name = triton_repository.add(NATIVE, append=model_repos.instance_group(), **parameters)
    server = triton_server(triton_repository)
    server.load(name)
    def call():
        with server.infer(name, {"INPUT0": A, "INPUT1": A}, allocator=allocator) as response:
            assert response["OUTPUT0"].numpy().tolist() == (A + A).tolist()
    return call
"""


# Those who do not use it


def test_it_costs_nothing_where_it_is_not_used(project: pytest.Pytester) -> None:
    project.makepyfile(f"import sys\ndef test_it():\n    assert not {OURS} & set(sys.modules), sys.modules.keys()")
    outcomes, output = run(project)
    assert outcomes == {"passed": 1}, output
    outcomes, output = run(project, "-p", "no:tritoncapi")
    assert outcomes == {"passed": 1}, output


def test_a_projects_folder_may_have_the_name_of_ours(project: pytest.Pytester) -> None:
    project.makepyfile(**{"scenarios/test_own": "def cases():\n    pass\n\n\ndef test_it():\n    pass"})
    outcomes, output = run(project, "scenarios")
    assert outcomes == {"passed": 1}, output


def test_it_says_what_it_has(project: pytest.Pytester) -> None:
    project.makepyfile("")
    done = project.runpytest_subprocess("--fixtures", "--markers", "-q")
    names = ("repository", "server", "allocator", "place", "probes", "library")
    done = project.runpytest_subprocess("--fixtures", "-q")
    for name in names:
        found = re.search(rf"^triton_{name}.*\n    (\S.*)", done.stdout.str(), re.M)
        assert found, name
        assert found[1] != "no docstring available"
    assert "@pytest.mark.triton(gpus=0" in project.runpytest_subprocess("--markers").stdout.str()


# The README's test


def readme_test() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (found,) = [block for block in blocks if "def test_my_backend" in block]
    assert isinstance(found, str)
    return found


def readme_line() -> str:
    """The line that takes a user's own backend."""
    (found,) = re.findall(r"`(model = triton_repository\.add\(\"models/mine\".*?\))`", (ROOT / "README.md").read_text())
    assert isinstance(found, str)
    return found


def test_the_readmes_test_is_ten_lines() -> None:
    lines = [line for line in readme_test().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) == 10


def test_the_readmes_test(project: pytest.Pytester, library: object) -> None:
    ours = re.search(r"model = triton_repository\.add\(.*\)", readme_test())
    assert ours is not None
    own = readme_test().replace(ours[0], readme_line())
    wrong = readme_test().replace(ours[0], ours[0][:-1] + ', fault="wrong_values")')
    assert len({own, wrong, readme_test()}) == 3
    project.makepyfile(test_readme=readme_test(), test_own=own, test_wrong=wrong)
    model = model_repos.copy_model(model_repos.folder("memalloc") / "add_sub_int32_native", project.path / "models")
    config = (model.rename(model.with_name("mine"))) / "config.pbtxt"
    config.write_text(config.read_text().replace(f'"{model_repos.TEST_BACKEND}"', '"mine"'))
    (project.path / "build").mkdir()
    shutil.copy(model_repos.backend_library(), project.path / "build" / "libtriton_mine.so")
    outcomes, output = run(project, "test_readme.py", "test_own.py", "-rs")
    assert outcomes["passed"] >= 2, output
    assert not {"failed", "errors"} & set(outcomes), output
    assert outcomes["passed"] > 2 or "needs a GPU: " in output  # the other places
    outcomes, output = run(project, "test_wrong.py", "--triton-log", "here.log")
    assert outcomes["failed"] >= 1, output
    assert "errors" not in outcomes, output  # what the failure keeps does not keep the server from stopping
    said = section(output, "test_my_backend[cpu]")
    assert 'assert response["OUTPUT0"].numpy().tolist() == (a + b).tolist()' in said
    assert "At index 0 diff: [2, 2, 3," in said
    assert "- Triton log -" in said
    assert "successfully loaded 'add_sub_int32_native'" in said
    assert "successfully unloaded 'add_sub_int32_native'" in (project.path / "here.log").read_text()


# The marker


def test_needs_are_skipped_with_the_reason(project: pytest.Pytester, library: object) -> None:
    marks = {
        "gpus": "gpus=99",
        "backend": "backend='nobodys'",
        "api": "api='1.99'",
        "shm": "shm=1 << 60",
        "met": "api='1.2', shm=4096",
        "bare": "",
        "misspelt": "gpu=1",
        "kind": "gpus='1'",
        "version": "api='new'",
        "position": "1",
    }
    source = "import pytest\n"
    source += "".join(f"@pytest.mark.triton({mark})\ndef test_{name}(): pass\n" for name, mark in marks.items())
    project.makepyfile(source)
    outcomes, output = run(project, "-rs")
    assert outcomes == {"passed": 2, "skipped": 4, "errors": 4}, output
    for reason in ("needs 99 GPUs: ", "needs the backend nobodys: ", r"needs C API 1\.99: .* is 1\.", "of /dev/shm: "):
        assert re.search(rf"^SKIPPED \[1\] test_.*\.py:\d+: .*{reason}", output, re.M), reason
    for name, text in {"misspelt": "no argument gpu;", "kind": "whole number", "version": "'1.33'"}.items():
        assert text in section(output, f"test_{name}")


def test_without_a_triton_everything_is_skipped(project: pytest.Pytester) -> None:
    (project.path / "sitecustomize.py").write_text(
        "import tritoncapi._locate as it\nit.CONTAINER_ROOT = it.Path('/nowhere')\nit._sites = lambda: iter(())\n"
    )
    project.makepyfile(
        "import pytest\n@pytest.mark.triton\ndef test_marked(): 1 / 0\n"
        "def test_fixture(triton_server): 1 / 0\ndef test_else(): pass"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(project.path))
        patch.delenv("TRITONCAPI_TRITON", raising=False)
        outcomes, output = run(project, "-rs")
        assert outcomes == {"passed": 1, "skipped": 2}, output
        assert output.count("no Triton found: give --triton PATH") == 2
        outcomes, output = run(project, "--pyargs", "scenarios", "-rs", "-k", "native-bytes or native-gpu")
        assert set(outcomes) <= {"skipped", "deselected"}, output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--triton", "/nowhere"], "--triton: /nowhere .* does not exist"),
        (["--triton-log", "/nowhere/log"], "--triton-log /nowhere/log: there is no folder /nowhere"),
    ],
)
def test_options_that_cannot_be_followed_are_one_line(project: pytest.Pytester, words: list[str], text: str) -> None:
    done = project.runpytest_subprocess(*words)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(f"^ERROR: {text}", done.stderr.str(), re.M)
    assert "Traceback" not in done.stderr.str()


# Fixtures


def test_what_is_left_over_fails_the_test(project: pytest.Pytester, library: object) -> None:
    project.makepyfile(
        COMMON
        + """
KEPT = []
@pytest.fixture(scope="session")
def wide():
    with open("/dev/null") as file: yield file
@pytest.fixture
def narrow():
    with open("/dev/null") as file: yield file
def test_descriptor(triton_probes): KEPT.append(open("/dev/null"))
def test_process(triton_probes):
    KEPT.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]))
def test_it_was_there_before(triton_probes): KEPT[-1].kill(), KEPT[-1].wait()
def test_unreaped(triton_probes):
    KEPT.append(subprocess.Popen(["true"]))
    os.waitid(os.P_PID, KEPT[-1].pid, os.WEXITED | os.WNOWAIT)
def test_shared_memory(triton_probes):
    triton_probes.watch_shm(f"mine_{os.getpid()}")
    open(f"/dev/shm/mine_{os.getpid()}_x", "w").close()
def test_allowed(triton_probes):
    os.unlink(f"/dev/shm/mine_{os.getpid()}_x")
    triton_probes.allow(descriptors=1)
    KEPT.append(open("/dev/null"))
def test_order(narrow, wide, triton_probes, request):
    names = request.fixturenames
    assert names.index("wide") < names.index("triton_probes") < names.index("narrow")
    narrow.close()
def test_nothing(triton_probes, triton_repository, triton_server): use(triton_repository, triton_server)()
def test_mismatch(triton_probes, triton_repository, triton_server, triton_allocator):
    use(triton_repository, triton_server, triton_allocator(), fault="wrong_reported:pinned")()
def test_failed(triton_probes):
    KEPT.append(open("/dev/null"))
    assert not KEPT
"""
    )
    outcomes, output = run(project)
    assert outcomes == {"failed": 6, "passed": 4}, output
    for test, text in {
        "descriptor": "1 descriptor more than before: /dev/null",
        "process": "1 process more than before: .*python",
        "unreaped": "1 process more than before: .*dead",
        "shared_memory": "1 entry of /dev/shm more than before: mine_",
        "mismatch": "2 buffers came back as another buffer, size or place than was given",
        "failed": "assert not ",
    }.items():
        assert re.search(text, section(output, f"test_{test}")), test


def test_growth_is_found_and_its_absence_too(project: pytest.Pytester, library: object) -> None:
    project.makepyfile(
        COMMON
        + """
@pytest.mark.parametrize("fault", ["leak_host:4096", "leak_fd", "fail_request:1000000"])
def test_repeat(triton_probes, triton_repository, triton_server, fault):
    call = use(triton_repository, triton_server, fault=fault)
    checks = triton_probes.repeat(call)
    assert len(checks) >= 5
    triton_probes.allow(descriptors=1000)
def test_few(triton_probes): triton_probes.repeat(lambda: None, times=4)
"""
    )
    outcomes, output = run(project)
    assert outcomes == {"failed": 3, "passed": 1}, output
    assert "heap in use grows by 4.0" in section(output, "test_repeat[leak_host:4096]")
    assert "the number of open descriptors grows by 1 a call" in section(output, "test_repeat[leak_fd]")
    assert "whether it grows cannot be told: heap in use: 4 samples" in section(output, "test_few")


def test_servers_are_closed_and_allocators_counted(project: pytest.Pytester, library: object) -> None:
    project.makepyfile(
        COMMON
        + """
import tritoncapi as tc
MADE = []
def test_closed(triton_repository, triton_server, triton_allocator):
    use(triton_repository, triton_server)
    MADE.extend([triton_server(triton_repository.path, log_info=True), triton_allocator()])
def test_it_was(): assert all(one.closed for one in MADE)
def test_configs(triton_repository, triton_server):
    text = (NATIVE / "config.pbtxt").read_text()
    name = triton_repository.add_config("written", text, operation="add_sub")
    triton_repository.add_config("with_files", text, {"1/.keep": b""})
    assert triton_repository.models == ["with_files", "written"]
    with pytest.raises(FileExistsError, match="already has a model 'written'"): triton_repository.add(NATIVE, "written")
@pytest.mark.parametrize("triton_place", ["cpu", tc.CPU], indirect=True)
def test_named(triton_place): assert triton_place == tc.CPU
"""
    )
    outcomes, output = run(project)
    assert outcomes == {"passed": 5}, output


def test_a_repository_says_what_is_wrong(tmp_path: Path) -> None:
    repository = Repository(tmp_path, tmp_path / "none")
    assert repr(repository) == f"<Repository {tmp_path / 'models'}: empty>"
    with pytest.raises(FileNotFoundError, match=r"there is no model's folder .*nowhere"):
        repository.add("nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no backend .*nowhere"):
        repository.add_backend("nowhere")
    with pytest.raises(ValueError, match=r"finds a backend by its file's name, libtriton_<name>\.so"):
        repository.add_backend(__file__)
    with pytest.raises(ValueError, match="it has none"):
        repository.add_backend(tmp_path)
    library = model_repos.backend_library()
    assert repository.add_backend(library) == model_repos.TEST_BACKEND  # in the place of the one that is there
    assert repository.add_backend(library.parent) == model_repos.TEST_BACKEND
    assert (repository.backends / model_repos.TEST_BACKEND / library.name).resolve() == library.resolve()
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.pbtxt").write_text('backend: "x"')
    assert repository.add(folder, append="max_batch_size: 2", key="value") == "bare"
    assert (tmp_path / "models" / "bare" / "1").is_dir()
    lines = (tmp_path / "models" / "bare" / "config.pbtxt").read_text().splitlines()
    assert lines[1] == "max_batch_size: 2"
    assert '"value"' in lines[2]


# Tests in a process of their own


def test_a_crash_or_a_hang_is_a_failure_of_the_isolated_test(project: pytest.Pytester, library: object) -> None:
    project.makepyfile(
        COMMON
        + """
isolated = pytest.mark.triton(isolated=True, timeout=60)
@isolated
@pytest.mark.parametrize("fault", ["crash", "wrong_values", "fail_request:100"], ids=["a::b c", "d/[e]", "fine"])
def test_fault(triton_repository, triton_server, fault):
    print("pid", os.getpid())
    use(triton_repository, triton_server, fault=fault)()
@pytest.mark.triton(isolated=True, timeout=8)
def test_hang():
    print("before")
    threading.Event().wait()
class TestMore:
    @isolated
    def test_process(self): TestMore.kept = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    @isolated
    def test_exit(self): os._exit(3)
    @isolated
    def test_abort(self): sys.__stderr__.write("the last words"), os.abort()
    @isolated
    def test_skip(self): pytest.skip("because of that")
    @isolated
    @pytest.mark.xfail(strict=True)
    def test_xfail(self): os.getpid() / 0
    def test_with_us(self, tmp_path): pass
"""
    )
    outcomes, output = run(project, "-n", "2", "--junitxml", "all.xml", "-rs", "--triton-log", ".")
    assert outcomes == {"failed": 6, "passed": 2, "skipped": 1, "xfailed": 1}, output
    for test, texts in {
        "test_fault[a::b c]": ["crashed with SIGSEGV in the test itself", "Fatal Python error", "successfully loaded"],
        "test_fault[d/[e]]": [r"At index 0 diff: \[1, ", "- Triton log -", "successfully loaded", "Captured stdout"],
        "test_hang": [r"process hung in the test itself, and was ended after \d", "Stacks", r"test_hang"],
        "TestMore.test_process": ["process left behind, until they were removed: process .*python"],
        "TestMore.test_exit": ["ended early, with exit code 3, in the test itself"],
        "TestMore.test_abort": ["crashed with SIGABRT", "the last words"],
    }.items():
        for text in texts:
            assert re.search(text, section(output, test)), f"{test}: {text}"
    assert "because of that" in output
    cases = {case.get("name"): case for case in ElementTree.parse(project.path / "all.xml").iter("testcase")}
    failure = cases["test_fault[a::b c]"].find("failure")
    assert failure is not None
    assert "crashed with SIGSEGV" in failure.get("message", "")
    assert "successfully loaded" in (failure.text or "")
    logs = "".join(path.read_text() for path in project.path.glob("triton-gw?.log"))
    assert logs.count("successfully loaded") == 3
    assert "/pytest" not in failure.text.partition("Extension modules")[0].replace(str(project.path), "")


def test_every_test_may_be_isolated(project: pytest.Pytester, library: object) -> None:
    source = (
        "import os, pytest\n@pytest.fixture(scope='module')\ndef wide(): yield os.getpid()\n"
        "def test_here(wide): assert wide == os.getpid() == int(os.environ['PYTEST_PID'])\n"
        "def test_there(wide, triton_library): assert wide == os.getpid() != int(os.environ['PYTEST_PID'])"
    )
    project.makepyfile(test_one=source, test_two=source)  # what test_one has set up ends before test_two
    project.makeini("[pytest]\naddopts = -p no:cacheprovider -q\nminversion = 7")
    project.makeconftest(
        "import os\ndef pytest_configure(): os.environ.setdefault('PYTEST_PID', str(os.getpid()))\n"
        "def pytest_addoption(parser): parser.addoption('--mine', default=3, type=lambda text: object())"
    )
    outcomes, output = run(project, "--triton-isolated", "--mine", "4", "-k", "test", "-s")
    assert outcomes == {"passed": 4}, output


# Scenarios


CASES = """
def pytest_configure():
    from harness.cases import Case
    from scenarios import memalloc, multiserver
    wrong = ("memalloc", "--fault", "wrong_values")
    memalloc.cases = lambda: [
        Case("wrong", ("memalloc", "--fault", "wrong_reported:pinned")),
        Case("crash", ("memalloc", "--fault", "crash")),
        Case("usage", ("memalloc", "-i", "nowhere")),
        Case("lacks", ("memalloc", "-i", "gpu:99")),
        Case("many", ("memalloc",), gpus=99),
        Case("defect", wrong, defect="it is known"),
        Case("mended", ("memalloc",), defect="it is known"),
        Case("excused", wrong, excuse=lambda checks: "now and then" if checks[0].name else ""),
    ]
    words = ("multiserver", "-t", "2", "-l", "2", "--fault", "fail_request:7", "--no-probes")
    multiserver.cases = lambda: [Case("unknown", words)]
"""


def test_a_scenarios_failure_has_all_that_is_known(project: pytest.Pytester, library: object) -> None:
    project.makeconftest(CASES)
    words = ["--pyargs", "scenarios.memalloc", "scenarios.multiserver", "-n", "2", "--junitxml", "all.xml", "-rsxf"]
    outcomes, output = run(project, *words)
    assert outcomes == {"failed": 5, "skipped": 2, "xfailed": 2}, output
    for test, texts in {
        "wrong": [
            r"memalloc: FAIL - placement: round 1, OUTPUT0: the response says pinned, the allocator gave cpu",
            r"ok   values ",
            r"evidence of placement:\n  problems: ",
            r"again: tritoncapi-harness memalloc --fault wrong_reported:pinned",
            r"- Triton log -+\n\(\d+ lines, of which \d+ are shown: .*triton\.log\)",
            r"successfully loaded",
        ],
        "crash": [r"Triton crashed with SIGSEGV while inferring", r"Fatal Python error", r"signal: SIGSEGV"],
        "usage": [r"exit code 2 without a result: Error: .*'nowhere' is no place"],
        "mended": [r"\[XPASS\(strict\)\] it is known"],
        "unknown": [r"multiserver: UNKNOWN - planted fault: ", "- Triton log -"],
    }.items():
        for text in texts:
            assert re.search(text, section(output, test)), f"{test}: {text}"
    assert re.search(r"^FAILED scenarios/memalloc\.py::wrong - Failed: memalloc: FAIL - ", output, re.M)
    assert re.search(r"^SKIPPED .*This machine cannot run it: the input \(-i\) needs ", output, re.M)
    assert re.search(r"^SKIPPED .*needs 99 GPUs", output, re.M)
    assert re.search(r"^XFAIL .*now and then", output, re.M)
    cases = {case.get("name"): case for case in ElementTree.parse(project.path / "all.xml").iter("testcase")}
    failure = cases["wrong"].find("failure")
    assert failure is not None
    assert "evidence of placement" in (failure.text or "")
    assert "successfully loaded" in (failure.text or "")


def test_every_scenario_is_a_test(project: pytest.Pytester, library: object) -> None:
    outcomes, output = run(project, "--pyargs", "scenarios", "--collect-only", "-q")
    names = re.findall(r"^scenarios/(\w+)\.py::(\S+)$", output, re.M)
    assert len(names) == len(set(names)), "two have one name"
    due = {name.replace("-", "_") for name, entry in COMMANDS.items() if entry.needs}
    assert not due - {scenario for scenario, _ in names}, "scenarios without cases(): see harness/cases.py"
    assert len(names) > 60
    words = ["--pyargs", "scenarios", "-k", "native-bytes-on-cpu-from-cpu-to-cpu or native-gpu"]
    outcomes, output = run(project, *words, "--junitxml", "all.xml")
    assert outcomes["passed"] >= 2, output
    assert "failed" not in outcomes, output
    properties = ElementTree.parse(project.path / "all.xml").findall(".//property")
    found = {one.get("name"): one.get("value") or "" for one in properties}
    assert "every value and every place is right" in found["sentence"]
    assert found["command"].startswith("tritoncapi-harness memalloc ")


def test_ctrl_c_leaves_nothing(project: pytest.Pytester, library: object) -> None:
    project.makeconftest(
        "def pytest_configure():\n    from harness.cases import Case\n    from scenarios import multiserver\n"
        "    multiserver.cases = lambda: [Case('long', ('multiserver', '-t', '1', '--duration', '10m'))]\n"
    )
    words = [*STRICT, "--pyargs", "scenarios.multiserver", "--basetemp", str(project.path / "temporary")]
    process = project.popen([sys.executable, "-m", "pytest", *words], stdin=subprocess.DEVNULL)
    journals = "temporary/scenarios0/runs/*/journal.jsonl"
    assert until(lambda: any('"op"' in path.read_text() for path in project.path.glob(journals)), 30)
    below = psutil.Process(process.pid).children(recursive=True)
    assert below
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output + errors
    assert until(lambda: not any(one.is_running() for one in below), 20), below
