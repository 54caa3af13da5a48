"""Fixtures around one real Triton, and the record of which test called which function of its C API."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model_repos
import tritoncapi as tc
from tritoncapi import _bindings
from tritoncapi.errors import LibraryError

UNCALLED: dict[str, str] = {}
"""Functions that no test calls, with the reason; empty is what we want."""

TRITON_FIXTURES = {"library", "server", "make_server", "backends", "repository", "child"}


# The record of calls


class Ledger:
    """Which test called which function. Calls of fixtures count only for functions that no test calls itself."""

    def __init__(self) -> None:
        self.test: str | None = None
        self.in_call = False
        self.direct: dict[str, set[str]] = {}
        self.indirect: dict[str, set[str]] = {}

    def note(self, function: str) -> None:
        if self.test is not None:
            book = self.direct if self.in_call else self.indirect
            book.setdefault(function, set()).add(self.test)

    def table(self) -> str:
        """The Markdown table. Named are the two tests of each function that call the fewest functions."""
        width: dict[str, int] = {}
        for tests in self.direct.values():
            for test in tests:
                width[test] = width.get(test, 0) + 1
        rows = []
        for row in _bindings.ROWS.values():
            tests = self.direct.get(row.name) or self.indirect.get(row.name) or set()
            chosen = sorted(tests, key=lambda test: (width.get(test, 999), test))[:2]
            named = ", ".join(f"`{test}`" for test in chosen)
            since = ".".join(map(str, row.since))
            rows.append(f"| `TRITONSERVER_{row.name}` | {since} | {named or 'none: ' + UNCALLED.get(row.name, '?')} |")
        called = sum(row in self.direct or row in self.indirect for row in _bindings.ROWS)
        major, minor = _bindings.API_MAJOR, _bindings.API_MINOR
        oldest = ".".join(map(str, _bindings.OLDEST_API))
        return (
            f"# The functions of the C API\n\n"
            f"All {len(rows)} functions of `tritonserver.h` (C API {major}.{minor}) are bound.\n"
            f"The tests call {called} of them in a real Triton, without a GPU.\n\n"
            f"For each function: the first API version known to have it ({oldest} is the oldest looked at), and\n"
            "tests in `tests/tritoncapi` that call it, those that call few others first.\n"
            "`pytest --c-api-table docs/c-api.md` writes this file.\n\n"
            "| function | since | tests |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        )


ledger = Ledger()


def _record(bind: Callable[..., Any]) -> Callable[..., Any]:
    def recording_bind(self: _bindings.Functions, dll: ctypes.CDLL, row: _bindings.Row) -> Callable[..., Any]:
        function = bind(self, dll, row)
        if row.name in self.missing:
            return function
        name = row.name

        def call(*arguments: Any) -> Any:
            ledger.note(name)
            return function(*arguments)

        call.__wrapped__ = function  # type: ignore[attr-defined]
        return call

    return recording_bind


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--c-api-table", metavar="FILE", help="write which test calls which C function, as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    _bindings.Functions._bind = _record(_bindings.Functions._bind)  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TRITON_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("triton")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    function = getattr(item, "originalname", None) or item.name
    ledger.test = f"{item.path.name}::{function}"
    try:
        return (yield)
    finally:
        ledger.test = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    ledger.in_call = True
    try:
        return (yield)
    finally:
        ledger.in_call = False


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--c-api-table")
    if path:
        Path(path).write_text(ledger.table())


# Triton


@pytest.fixture(scope="session")
def library() -> tc.Library:
    """The process's Triton; without one the test is skipped."""
    try:
        tc.find()
    except LibraryError as error:
        pytest.skip(str(error))
    return tc.load()


@pytest.fixture(scope="session")
def backends(library: tc.Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backend directory with Triton's own backends and the test backend."""
    return model_repos.backend_directory(tmp_path_factory.mktemp("overlay") / "backends", library.triton.backends)


Tensor = tuple[str, str, Sequence[int]]
"""Name, datatype as in a configuration (``INT32``), dims."""


def _tensors(field: str, tensors: Sequence[Tensor], extra: str = "") -> str:
    found = ""
    for name, datatype, dims in tensors:
        configured = "STRING" if datatype == "BYTES" else datatype
        found += f'{field} {{ name: "{name}" data_type: TYPE_{configured} dims: {list(dims)} {extra} }}\n'
    return found


def add_model(
    repository: Path,
    name: str,
    operation: str = "identity",
    inputs: Sequence[Tensor] = (("INPUT0", "INT32", [-1]),),
    outputs: Sequence[Tensor] = (("OUTPUT0", "INT32", [-1]),),
    *,
    extra: str = "",
    output_extra: str = "",
    instances: str = "",
    versions: Sequence[int] = (1,),
    **parameters: object,
) -> Path:
    """Writes a model of the test backend; ``parameters`` are its own, such as ``fault`` or ``execute_delay_ms``."""
    folder = repository / name
    for version in versions:
        (folder / str(version)).mkdir(parents=True)
    text = f'backend: "{model_repos.TEST_BACKEND}"\n'
    text += _tensors("input", inputs) + _tensors("output", outputs, output_extra)
    text += instances or model_repos.instance_group("KIND_CPU")
    for key, value in {"operation": operation, **parameters}.items():
        text += model_repos.parameter(key, value)
    (folder / "config.pbtxt").write_text(text + extra + "\n")
    return folder


PAIR: Sequence[Tensor] = (("INPUT0", "INT32", [-1]), ("INPUT1", "INT32", [-1]))
PAIR_OUT: Sequence[Tensor] = (("OUTPUT0", "INT32", [-1]), ("OUTPUT1", "INT32", [-1]))
DATATYPES = [datatype.name for datatype in tc.DataType if datatype != tc.DataType.INVALID]
LONG_MS = 100_000  # a delay that no test waits for: the backend ends it when the request is cancelled


def _add_ensemble(repository: Path) -> None:
    """twice: SUM = (A + B) + B, through two runs of add_sub."""
    (repository / "ensemble" / "1").mkdir(parents=True)
    maps = [
        ({"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "between"}),
        ({"INPUT0": "between", "INPUT1": "B"}, {"OUTPUT0": "SUM"}),
    ]
    steps = ""
    for given, taken in maps:
        steps += 'step { model_name: "add_sub" model_version: -1\n'
        for field, pairs in (("input_map", given), ("output_map", taken)):
            steps += "".join(f'{field} {{ key: "{key}" value: "{value}" }}\n' for key, value in pairs.items())
        steps += "}\n"
    text = 'platform: "ensemble"\n'
    text += _tensors("input", [("A", "INT32", [-1]), ("B", "INT32", [-1])]) + _tensors(
        "output", [("SUM", "INT32", [-1])]
    )
    (repository / "ensemble" / "config.pbtxt").write_text(text + f"ensemble_scheduling {{ {steps} }}\n")


@pytest.fixture(scope="session")
def repository(library: tc.Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model for every kind of behaviour. No test writes into it."""
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "add_sub", "add_sub", PAIR, PAIR_OUT)
    for name in DATATYPES:
        add_model(folder, f"identity_{name}", "identity", [("INPUT0", name, [-1])], [("OUTPUT0", name, [-1])])
    add_model(folder, "matrix", "identity", [("INPUT0", "FP32", [-1, -1])], [("OUTPUT0", "FP32", [-1, -1])])
    add_model(folder, "slow", execute_delay_ms=LONG_MS)
    queue = (
        "max_batch_size: 1\ndynamic_batching { priority_levels: 5 default_priority_level: 2 default_queue_policy "
        "{ timeout_action: REJECT default_timeout_microseconds: 100000000 allow_timeout_override: true } }\n"
    )
    add_model(folder, "queued", extra=queue)
    add_model(folder, "queued_slow", extra=queue, execute_delay_ms=LONG_MS)
    add_model(
        *(folder, "repeat", "repeat", [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1])]),
        *([("OUT", "INT32", [1]), ("IDX", "UINT32", [1])],),
        extra="model_transaction_policy { decoupled: true }",
    )
    add_model(
        *(folder, "accumulate", "accumulate", [("INPUT", "INT32", [-1])], [("OUTPUT", "INT32", [-1])]),
        extra="sequence_batching { direct { } max_sequence_idle_microseconds: 60000000 }",
    )
    labelled = add_model(folder, "labelled", output_extra='label_filename: "labels.txt"')
    (labelled / "labels.txt").write_text("zero\none\ntwo\n")
    _add_ensemble(folder)
    for fault in ("no_answer", "answer_twice", "fail_request", "fail_execute", "wrong_shape"):
        add_model(folder, fault, fault=fault)
    return folder


def everything(repository: Path) -> list[str]:
    """The names of all models of a repository."""
    return sorted(entry.name for entry in repository.iterdir() if entry.is_dir())


@pytest.fixture(scope="session")
def _all_models(repository: Path, backends: Path) -> Iterator[tc.Server]:
    options = tc.ServerOptions(
        model_repository=repository, backend_directory=backends, startup_models=["*"], log_info=False, log_verbose=0
    )
    try:
        server = tc.Server(options)
    except tc.errors.Error:  # say which model it is that does not load
        with tc.Server(repository, backend_directory=backends) as server:
            for name in everything(repository):
                server.load(name)
        raise
    with server:
        yield server


@pytest.fixture
def server(_all_models: tc.Server) -> Iterator[tc.Server]:
    """A server with all models of ``repository`` loaded. Afterwards no request, response or buffer may be left."""
    yield _all_models
    gc.collect()
    assert wait_for(lambda: open_calls(_all_models.library) == 0), "a call is still open in the native part"
    assert wait_for(lambda: _all_models.default_allocator.counts.live == 0), "an output buffer is still out"


@pytest.fixture
def request_(server: tc.Server) -> Iterator[tc.InferenceRequest]:
    """A request for add_sub, without inputs."""
    with server.request("add_sub") as made:
        yield made


@pytest.fixture
def requests(server: tc.Server) -> Iterator[list[tc.InferenceRequest]]:
    """64 requests for add_sub; the first outputs are 100, 101, ..."""
    with ExitStack() as stack:
        right = np.array([100], np.int32)
        lefts = [np.array([value], np.int32) for value in range(64)]
        yield [stack.enter_context(server.request("add_sub", {"INPUT0": left, "INPUT1": right})) for left in lefts]


@pytest.fixture
def models(tmp_path: Path, tools: Any) -> Path:
    """A repository of one's own, with the model ``one``."""
    tools.add_model(tmp_path / "models", "one")
    return tmp_path / "models"


@pytest.fixture
def make_server(backends: Path) -> Iterator[Callable[..., tc.Server]]:
    """``make_server(repository, **options)``: servers that are closed at the end."""
    made: list[tc.Server] = []

    def make(repository: Path | Sequence[Path], **options: Any) -> tc.Server:
        settings: dict[str, Any] = {
            "backend_directory": backends,
            "log_info": False,
            "log_warn": True,
            "log_error": True,
            **options,
        }
        made.append(tc.Server(tc.ServerOptions(model_repository=repository, **settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def open_calls(library: tc.Library) -> int:
    """Submitted requests that the native part still knows."""
    counts = ctypes.c_uint64(), ctypes.c_uint64()
    library.native.calls_count(*(ctypes.byref(count) for count in counts))
    return counts[0].value


def stray_events(library: tc.Library) -> int:
    """Callbacks that came for requests already closed."""
    counts = ctypes.c_uint64(), ctypes.c_uint64()
    library.native.calls_count(*(ctypes.byref(count) for count in counts))
    return counts[1].value


def wait_for(met: Callable[[], bool], timeout: float = 20.0) -> bool:
    """Looks until ``met()`` or the time is over."""
    deadline = time.monotonic() + timeout
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The helpers of this file, for tests."""
    return Tools()


class Tools:
    """What tests share."""

    pair, pair_out, datatypes = PAIR, PAIR_OUT, DATATYPES
    add_model = staticmethod(add_model)
    open_calls = staticmethod(open_calls)
    stray_events = staticmethod(stray_events)
    wait_for = staticmethod(wait_for)

    @staticmethod
    def ints(*values: int) -> Any:
        """An INT32 vector."""
        return np.array(values, np.int32)


# Child processes: one process holds one Triton, and a crash must not end the tests


# Before and after a child's source: which functions it called goes into the file that its first argument names.
RECORD = """
import sys
from tritoncapi import _bindings
called, bind = set(), _bindings.Functions._bind
def recording_bind(self, dll, row):
    function = bind(self, dll, row)
    if row.name in self.missing:
        return function
    return lambda *arguments: (called.add(row.name), function(*arguments))[1]
_bindings.Functions._bind = recording_bind
calls_file = sys.argv.pop(1)
"""
# It ends at once: a regular end waits for Triton's metrics thread, up to 2 s.
END = """
import os, pathlib, sys
pathlib.Path(calls_file).write_text(" ".join(called))
sys.stdout.flush()
os._exit(0)
"""


class Child:
    """Runs Python source in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def start(self, source: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Starts it; the environment is ours, with these changes (an empty value removes)."""
        self.count += 1
        calls = self.folder / str(self.count)
        merged = {**os.environ, **environment}
        merged = {key: value for key, value in merged.items() if value}
        return subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-X",
                "faulthandler",
                "-c",
                RECORD + source + END,
                str(calls),
                *map(str, arguments),
            ],
            env=merged,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 60.0) -> tuple[int, str, str]:
        """Waits for its end; kills its whole session when the time is over."""
        try:
            out, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, errors = process.communicate()
            pytest.fail(f"the child did not end within {timeout:g} s\n{out}\n{errors}")
        for calls in self.folder.iterdir():
            for function in calls.read_text().split():
                ledger.note(function)
            calls.unlink()
        return process.returncode, out, errors

    def __call__(self, source: str, *arguments: object, timeout: float = 60.0, **environment: str) -> str:
        """Runs it to a good end and returns what it printed."""
        code, out, errors = self.finish(self.start(source, *arguments, **environment), timeout)
        assert code == 0, f"exit status {code}\n{out}\n{errors}"
        return out


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Child:
    """``child(source, *arguments)``: the output of a Python process."""
    return Child(tmp_path_factory.mktemp("calls"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
