"""What pytest sees: options, the marker, fixtures, and the hooks that lead to the other files here.

Every run of a user who installed the package loads this file. So it imports nothing but pytest: not our own packages
either, whose names (``harness``, ``scenarios``) a user's project may have for its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tritoncapi import Library, Place

    from .bench import Bench, MakeAllocator, MakeServer
    from .probes import TestProbes
    from .repository import Repository

MARKER = (
    "triton(gpus=0, backend='', api='', shm=0, isolated=False, timeout=300): needs a Triton, and of the machine so "
    "many GPUs, of Triton this backend and C API version ('1.33'), in /dev/shm so many free bytes; skipped with the "
    "reason otherwise. isolated: runs in a process of its own, which may crash, or hang for timeout seconds."
)
SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
_PROBES, _PLACE = "triton_probes", "triton_place"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--triton``, ``--triton-log``, ``--triton-isolated``."""
    group = parser.getgroup("triton", "Triton (tritoncapi-harness)")
    group.addoption(
        "--triton",
        metavar="PATH",
        help="The Triton to run: a libtritonserver.so or a root directory. "
        "Default: $TRITONCAPI_TRITON, /opt/tritonserver, the installed wheel.",
    )
    group.addoption(
        "--triton-log",
        metavar="PATH",
        help="Where Triton's log goes: a file, or a directory. Default: triton.log in pytest's temporary directory. A "
        "test that fails shows the lines that came while it ran.",
    )
    group.addoption(
        "--triton-isolated",
        action="store_true",
        help="Run every test that has the triton marker, or one of its fixtures, in a process of its own.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known, and refuses options that cannot be followed."""
    config.addinivalue_line("markers", MARKER)
    if config.getoption("triton") is not None or config.getoption("triton_log") is not None:
        from . import state

        state.check_options(config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Our scenarios, where pytest was pointed at them: ``pytest --pyargs scenarios``."""
    if file_path.parent.name != SCENARIOS.name or file_path.suffix != ".py" or file_path.name.startswith("_"):
        return None
    if file_path.parent.resolve() != SCENARIOS or b"\ndef cases(" not in file_path.read_bytes():
        return None
    from .collection import ScenarioFile

    return ScenarioFile.from_parent(parent, path=file_path, nodeid=f"{SCENARIOS.name}/{file_path.name}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each place of this machine, unless the test names its own."""
    if _PLACE not in metafunc.fixturenames:
        return
    named = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize") if mark.args)
    if any(_PLACE in (one.replace(",", " ").split() if isinstance(one, str) else one) for one in named):
        return
    from . import needs

    metafunc.parametrize(_PLACE, needs.places(), indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The probes' first levels are taken before a function's own fixtures, and after those that outlive it."""
    for item in items:
        names = getattr(item, "fixturenames", None)
        if names and _PROBES in names and hasattr(item, "_fixtureinfo"):
            definitions = item._fixtureinfo.name2fixturedefs
            names.remove(_PROBES)
            wider = [bool(found) and found[-1].scope != "function" for found in map(definitions.get, names)]
            names.insert(wider.index(False) if False in wider else len(names), _PROBES)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A test that is to be isolated runs elsewhere."""
    if not _concerned(item):
        return None
    from . import isolation

    return isolation.run(item, nextitem) if isolation.wanted(item) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what this machine, or this Triton, cannot run; remembers where the log's lines of this test begin."""
    if not _concerned(item):
        return
    from . import needs, state

    state.of(item.config).begin()
    needs.check(item)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """With ``triton_probes`` what is left over is a failure of the test, not an error of its teardown."""
    if _PROBES not in getattr(item, "fixturenames", ()):
        return (yield)
    from . import probes

    result = yield
    probes.judge(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows Triton's log, and whatever else was found out."""
    report = yield
    if report.failed and _concerned(item):
        from . import state

        state.of(item.config).explain(item, report)
        state.let_go(item, call)
    return report


def _concerned(item: pytest.Item) -> bool:
    """Whether a test has our marker or one of our fixtures."""
    if item.get_closest_marker("triton") is not None:
        return True
    return any(name in FIXTURES for name in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def triton_library(pytestconfig: pytest.Config) -> Library:
    """The process's Triton (``tritoncapi.Library``), as ``--triton`` says. Without one the test is skipped."""
    from . import state

    return state.of(pytestconfig).library()


@pytest.fixture
def triton_bench(request: pytest.FixtureRequest, triton_library: Library) -> Iterator[Bench]:
    """What ``triton_server`` and ``triton_allocator`` made, and closes it, servers first, and waits for their end."""
    from . import bench

    yield from bench.fixture(request.node, triton_library)


@pytest.fixture
def triton_repository(triton_library: Library, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """An empty model repository of the test's own.

    ``add(folder, backend="build/libtriton_mine.so")`` copies a model into it and returns its name;
    ``add_config(name, text)`` writes one. Parameters by keyword go into the model's configuration: ``add(folder,
    fault="hang")``. It is a path: ``triton_server(triton_repository)``.
    """
    from .repository import Repository

    return Repository(tmp_path_factory.mktemp("triton"), triton_library.triton.backends)


@pytest.fixture
def triton_server(triton_bench: Bench) -> MakeServer:
    """``triton_server(repository, **options)`` makes a ``tritoncapi.Server``; it is closed when the test is over.

    Options are those of ``tritoncapi.ServerOptions``. Models are loaded by name: ``server.load("mine")``. A server that
    crashes takes pytest with it, unless the test has ``@pytest.mark.triton(isolated=True)``.
    """
    return triton_bench.server


@pytest.fixture
def triton_allocator(triton_bench: Bench) -> MakeAllocator:
    """``triton_allocator(place)`` makes a ``tritoncapi.ResponseAllocator``, for ``server.infer(allocator=...)``.

    New buffers are filled with 0xAA, so that memory nobody wrote cannot pass for an answer. When the test is over
    every buffer must have come back, once, as it was given.
    """
    return triton_bench.allocator


@pytest.fixture
def triton_place(request: pytest.FixtureRequest) -> Place:
    """A ``tritoncapi.Place``; the test runs once for each that the machine has: cpu, pinned, gpu:0, gpu:1, ...

    Without a GPU pinned and gpu:0 are skipped, with the reason. ``parametrize("triton_place", ["cpu"], indirect=True)``
    names others.
    """
    from . import needs

    return needs.place(request.param)


@pytest.fixture
def triton_probes(request: pytest.FixtureRequest, triton_library: Library) -> TestProbes:
    """Fails the test when it leaves processes, descriptors or shared memory behind.

    The servers of ``triton_server`` are closed first, when the test's function returns: before other fixtures end.
    ``triton_probes.repeat(call, times=200)`` calls again and again, and fails when memory, descriptors, threads or
    processes grow. ``allow(descriptors=2)`` and ``watch_shm("prefix")`` fit it to what the test does.
    """
    from . import probes

    return probes.begin(request.node, triton_library)


FIXTURES = frozenset(name for name in list(globals()) if name.startswith("triton_"))
