"""Server: what it says, its models' life, and how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import model_repos
import tritoncapi as tc
from tritoncapi import log
from tritoncapi.errors import (
    AlreadyExistsError,
    ClosedError,
    InternalError,
    InvalidArgError,
    NotFoundError,
    UnavailableError,
)

NONE, POLL, EXPLICIT = tc.ModelControlMode
Make = Callable[..., tc.Server]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("options", [None, "", [], 5])
def test_a_server_without_a_repository(options: Any) -> None:
    with pytest.raises(TypeError, match="a server needs a model repository: give its path or ServerOptions, not "):
        tc.Server(options)


def test_repositories_as_keyword_or_list(models: Path, library: tc.Library) -> None:
    for arguments, settings in (((), {"model_repository": models}), (([models],), {})):
        with tc.Server(*arguments, library=library, metrics=False, log_info=False, **settings) as server:
            assert [entry.name for entry in server.index()] == ["one"]


@pytest.mark.parametrize(("name", "error"), [(3, TypeError), (b"one", TypeError), ("o\0ne", ValueError)])
def test_a_model_name_that_is_none(server: tc.Server, name: Any, error: type[Exception]) -> None:
    for call in (server.load, server.unload, server.model_ready, server.request, lambda name: server.infer(name, {})):
        with pytest.raises(error, match=r"a model's name (is a str, not|has no NUL)"):
            call(name)


def override(server: tc.Server, model: str, name: str = "", **parameters: str) -> str:
    """The model's configuration with another name or other backend parameters, as JSON."""
    config = server.model_config(model)
    config["name"] = name or model
    config["parameters"].update({key: {"string_value": value} for key, value in parameters.items()})
    return json.dumps(config)


def states(server: tc.Server) -> dict[str, str]:
    return {entry.name: entry.state for entry in server.index()}


# What a server says


def test_what_it_says_of_itself(server: tc.Server) -> None:
    assert server.live
    assert server.ready
    assert server.metadata["name"] == "triton"
    assert server.metadata["version"].count(".") == 2
    assert "statistics" in server.metadata["extensions"]
    assert repr(server).startswith("<tritoncapi.server.Server")


def test_what_it_says_of_models(server: tc.Server) -> None:
    assert server.model_ready("add_sub")
    assert server.model_ready("add_sub", 1)
    assert not server.model_ready("add_sub", 2)
    assert not server.model_ready("nonsense")
    metadata = server.model_metadata("add_sub", 1)
    assert (metadata["name"], metadata["versions"]) == ("add_sub", ["1"])
    assert metadata["inputs"] == [
        {"name": "INPUT0", "datatype": "INT32", "shape": [-1]},
        {"name": "INPUT1", "datatype": "INT32", "shape": [-1]},
    ]
    assert server.model_config("add_sub")["backend"] == model_repos.TEST_BACKEND
    assert server.batch_properties("add_sub") == tc.ModelBatchFlag.UNKNOWN
    assert server.batch_properties("queued") == tc.ModelBatchFlag.FIRST_DIM
    assert server.transaction_properties("add_sub") == tc.ModelTxnPropertyFlag.ONE_TO_ONE
    assert server.transaction_properties("repeat", 1) == tc.ModelTxnPropertyFlag.DECOUPLED


@pytest.mark.parametrize(
    "ask", ["model_metadata", "model_config", "model_statistics", "batch_properties", "transaction_properties"]
)
def test_asking_after_an_unknown_model(server: tc.Server, ask: str) -> None:
    for model, version in (("nonsense", -1), ("add_sub", 9)):
        with pytest.raises((NotFoundError, InvalidArgError), match=model):
            getattr(server, ask)(model, version)


def test_the_index(server: tc.Server, repository: Path) -> None:
    index = server.index()
    assert {entry.name for entry in index} == {path.name for path in repository.iterdir()}
    assert {(entry.version, entry.state, entry.reason) for entry in index} == {("1", "READY", "")}
    assert {entry.name for entry in server.index(ready_only=True)} == {entry.name for entry in index}


def test_statistics_count_requests(make_server: Make, models: Path, tools: Any) -> None:
    server = make_server(models)
    server.load("one")

    def success() -> int:
        (row,) = server.model_statistics("one")
        return int(row["inference_stats"]["success"]["count"])

    assert success() == 0
    for _ in range(3):
        server.infer("one", {"INPUT0": tools.ints(1)}).close()
    assert tools.wait_for(lambda: success() == 3)  # they lag behind the responses
    (row,) = server.model_statistics()
    assert (row["name"], row["version"], row["inference_count"]) == ("one", "1", 3)
    assert row["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 65536}]


def test_metrics_count_requests(make_server: Make, models: Path, tools: Any) -> None:
    server = make_server(models)
    server.load("one")
    line = 'nv_inference_request_success{model="one",version="1"} '
    assert line + "0" in server.metrics()
    server.infer("one", {"INPUT0": tools.ints(1)}).close()
    assert tools.wait_for(lambda: line + "1" in server.metrics())


# Models


def test_load_and_unload(make_server: Make, models: Path, tools: Any) -> None:
    server = make_server(models)
    assert states(server) == {"one": ""}
    assert server.index(ready_only=True) == []
    server.load("one")
    assert states(server) == {"one": "READY"}
    server.infer("one", {"INPUT0": tools.ints(1)}).close()
    server.unload("one", timeout=10)
    assert server.index() == [tc.IndexEntry("one", "1", "UNAVAILABLE", "unloaded")]
    with pytest.raises(NotFoundError, match="'one' has no available versions"):
        server.request("one")
    server.unload("one")  # again is no error, nor is a model that never was
    server.load("one")
    assert server.model_ready("one")


def test_a_model_that_does_not_load(make_server: Make, models: Path, tools: Any) -> None:
    tools.add_model(models, "bad", fault="fail_instance_init")
    server = make_server(models)
    for _ in range(3):
        with pytest.raises(InvalidArgError, match="Internal: planted fault: fail_instance_init"):
            server.load("bad")
    entry = next(entry for entry in server.index() if entry.name == "bad")
    assert (entry.state, "planted fault" in entry.reason) == ("UNAVAILABLE", True)
    with pytest.raises(InternalError, match="failed to load 'nonsense'"):
        server.load("nonsense")
    server.load("one")  # the neighbour is well


def test_load_with_another_configuration(make_server: Make, models: Path, tools: Any) -> None:
    server = make_server(models)
    server.load("one")
    server.load("one", {"config": override(server, "one", fault="wrong_values")})
    assert server.model_config("one")["parameters"]["fault"] == {"string_value": "wrong_values"}
    with server.infer("one", {"INPUT0": tools.ints(5)}) as response:
        assert response["OUTPUT0"].numpy().tolist() == [6]
    for wrong in ({"config": "{"}, {"config": 3}, {"unknown": "{}"}):
        with pytest.raises(InternalError, match="failed to load 'one'"):
            server.load("one", wrong)
    assert server.model_ready("one")


def test_load_with_files_of_a_model_that_is_nowhere_on_disk(make_server: Make, models: Path, tools: Any) -> None:
    server = make_server(models)
    server.load("one")
    server.load("fresh", {"config": override(server, "one", "fresh"), "file:1/notes.txt": b"not\0text"})
    with server.infer("fresh", {"INPUT0": tools.ints(5)}) as response:
        assert (response.model, response["OUTPUT0"].numpy().tolist()) == (("fresh", 1), [5])
    # Triton's index does not know it; the end has to find it all the same.
    assert states(server) == {"one": "READY"}
    server.close()


def test_reload_takes_what_changed_on_disk(make_server: Make, models: Path, tools: Any) -> None:
    server = make_server(models)
    server.load("one")
    config = models / "one" / "config.pbtxt"
    text = config.read_text() + model_repos.parameter("fault", "wrong_values")
    before = config.stat().st_mtime_ns

    def written() -> bool:  # Triton compares time stamps, and file systems' clocks are coarse
        config.write_text(text)
        return config.stat().st_mtime_ns != before

    assert tools.wait_for(written)
    server.load("one")
    with server.infer("one", {"INPUT0": tools.ints(5)}) as response:
        assert response["OUTPUT0"].numpy().tolist() == [6]


def test_unload_with_dependents(make_server: Make, repository: Path, backends: Path) -> None:
    server = make_server(repository, startup_models=["ensemble"])
    assert {entry.name for entry in server.index(ready_only=True)} == {"ensemble", "add_sub"}
    server.unload("ensemble", dependents=True)
    assert server.wait_unloaded(["ensemble", "add_sub"], 10)
    assert server.index(ready_only=True) == []


def test_unload_with_a_time_limit(make_server: Make, repository: Path) -> None:
    server = make_server(repository, startup_models=["slow"])
    request = server.request("slow", {"INPUT0": [1]})
    request.set_input("INPUT0", _int32(1))
    request.start()
    with pytest.raises(tc.StopTimeout, match=r"model 'slow' is not unloaded after 0\.05 s"):
        server.unload("slow", timeout=0.05)
    assert states(server)["slow"] == "UNLOADING"
    assert not server.wait_unloaded(timeout=0.0)
    request.close()
    assert server.wait_unloaded(["slow"], 20)
    assert server.wait_unloaded(timeout=20)


def _int32(*values: int) -> Any:
    import numpy as np

    return np.array(values, np.int32)


def test_repositories_come_and_go(make_server: Make, models: Path, tmp_path: Path, tools: Any) -> None:
    more = tmp_path / "more"
    tools.add_model(more, "folder")
    server = make_server(models)
    server.register_repository(more, {"folder": "renamed"})
    assert set(states(server)) == {"one", "renamed"}
    server.load("renamed")
    with server.infer("renamed", {"INPUT0": _int32(3)}) as response:
        assert response.model == ("renamed", 1)
    with pytest.raises(AlreadyExistsError, match="already been registered"):
        server.register_repository(more)
    server.unload("renamed", timeout=10)
    server.unregister_repository(more)
    assert set(states(server)) == {"one"}
    server.register_repository(str(more))
    assert set(states(server)) == {"one", "folder"}
    for change in (server.register_repository, server.unregister_repository):
        with pytest.raises(InvalidArgError, match="repository not found"):
            change(tmp_path / "nowhere")


# The end


def test_stop_unloads_first(make_server: Make, repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "log"
    server = make_server(repository, startup_models=["add_sub", "ensemble", "matrix"])
    log.configure(file=file, info=True)
    try:
        server.stop(20)
    finally:
        log.configure(file="", info=False)
    text = file.read_text()
    # When Triton's own stop began, no model was left: it did not have to wait its second.
    assert "Waiting for in-flight requests to complete." in text
    assert "Timeout 20: Found 0 live models and 0 in-flight non-inference requests" in text
    assert "Timeout 19" not in text
    for name in ("add_sub", "ensemble", "matrix"):
        assert f"successfully unloaded '{name}' version 1" in text.split("Waiting for in-flight")[0]


def test_stop_finds_models_that_no_repository_has(
    make_server: Make, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(models, startup_models=["one"])
    server.load("fresh", {"config": override(server, "one", "fresh"), "file:1/notes.txt": b""})
    unload, unloaded = server.unload, set()

    def note(model: str) -> None:
        unloaded.add(model)
        unload(model)

    monkeypatch.setattr(server, "unload", note)  # the log says only later that it is gone
    server.stop(20)
    assert unloaded == {"one", "fresh"}


def test_close_with_idle_requests(make_server: Make, repository: Path) -> None:
    server = make_server(repository, startup_models=["add_sub"])
    idle = [server.request("add_sub") for _ in range(3)]
    server.close()
    assert all(request.closed for request in idle)
    assert server.closed


def test_close_with_requests_in_flight(make_server: Make, repository: Path) -> None:
    server = make_server(repository, startup_models=["slow"])
    waiting = [server.request("slow", {"INPUT0": _int32(1)}) for _ in range(3)]
    executions = [request.start() for request in waiting]
    server.close(20)
    assert all(request.closed for request in waiting)
    assert all(execution.done for execution in executions)


def test_stop_while_other_threads_make_requests(make_server: Make, repository: Path, tools: Any) -> None:
    server = make_server(repository, startup_models=["add_sub"])
    started, failures = threading.Semaphore(0), []

    def work() -> None:
        while True:
            try:
                with server.infer("add_sub", {"INPUT0": _int32(1), "INPUT1": _int32(2)}, timeout=20) as response:
                    assert response["OUTPUT0"].numpy().tolist() == [3]
            except tc.errors.Error:
                return  # closed, unloaded, or cancelled by the stopping server
            except BaseException as error:
                failures.append(error)
                return
            finally:
                started.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        started.acquire()
    server.stop(20)
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    assert tools.wait_for(lambda: tools.open_calls(server.library) == 0)


def test_close_with_a_response_that_is_still_held(child: Any, repository: Path, backends: Path) -> None:
    source = """
import sys, time, numpy as np, tritoncapi as tc
repository, backends = sys.argv[1:]
server = tc.Server(repository, backend_directory=backends, log_info=False, startup_models=["add_sub"])
one = np.array([1], np.int32)
response = server.infer("add_sub", {"INPUT0": one, "INPUT1": one})
view = response["OUTPUT0"].numpy()
response.close()
try:
    server.close(timeout=0.2)
except tc.StopTimeout as error:
    print(error, server.closed, view)
del view
"""
    out = child(source, repository, backends)
    assert "add_sub is UNLOADING; 2 output buffer(s) are held: close the responses" in out
    assert out.strip().endswith("True [2]")


@pytest.mark.parametrize(
    ("fault", "why"),
    [("hang", "slow_end is UNLOADING; 1 request(s) never came back"), ("hang_finalize", "slow_end is UNLOADING")],
)
def test_stop_of_a_backend_that_hangs(
    child: Any, tmp_path: Path, backends: Path, tools: Any, fault: str, why: str
) -> None:
    tools.add_model(tmp_path, "slow_end", fault=fault)
    source = """
import os
import re, sys, time, numpy as np, tritoncapi as tc
repository, backends, fault = sys.argv[1:]
server = tc.Server(repository, backend_directory=backends, log_info=False, startup_models=["slow_end"])
request = server.request("slow_end", {"INPUT0": np.array([1], np.int32)})
if fault == "hang":
    request.start()
start = time.monotonic()
try:
    server.close(timeout=0.2)
except tc.StopTimeout as error:
    print(error, flush=True)
print(time.monotonic() - start < 10, server.closed, flush=True)
os._exit(0)  # what hangs would hold up a regular end
"""
    out = child(source, tmp_path, backends, fault)
    assert why in out
    assert out.split()[-2:] == ["True", "True"]


def test_a_crash_of_a_model_is_the_childs(child: Any, tmp_path: Path, backends: Path, tools: Any) -> None:
    tools.add_model(tmp_path, "crash", fault="crash")
    source = """
import sys, numpy as np, tritoncapi as tc
server = tc.Server(sys.argv[1], backend_directory=sys.argv[2], log_info=False, startup_models=["crash"])
server.infer("crash", {"INPUT0": np.array([1], np.int32)})
"""
    code, _, errors = child.finish(child.start(source, tmp_path, backends))
    assert code == -11
    assert "Segmentation fault" in errors


def test_leaving_with_keeps_the_first_error(repository: Path, backends: Path) -> None:
    with pytest.raises(ValueError, match="first"), tc.Server(repository, backend_directory=backends, log_info=False):
        raise ValueError("first")


def test_stop_then_close(repository: Path, backends: Path) -> None:
    server = tc.Server(repository, backend_directory=backends, log_info=False)
    server.stop()
    assert not server.closed
    with pytest.raises(UnavailableError, match="not ready"):
        server.index()
    server.close()
    with pytest.raises(ClosedError):
        server.stop()


# Several servers


def test_several_servers_at_once(make_server: Make, repository: Path) -> None:
    servers = [make_server(repository, server_id=f"s{index}", startup_models=["add_sub"]) for index in range(4)]
    barrier, wrong = threading.Barrier(8), []

    def work(index: int) -> None:
        server = servers[index % 4]
        barrier.wait(20)
        for value in range(50):
            given = {"INPUT0": _int32(value), "INPUT1": _int32(index)}
            with server.infer("add_sub", given, timeout=20) as response:
                if response["OUTPUT0"].numpy().tolist() != [value + index]:
                    wrong.append((index, value))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.parametrize("guarded", [True, False])
def test_servers_made_used_and_closed_in_parallel(repository: Path, backends: Path, guarded: bool) -> None:
    # Unguarded without warnings: ServerNew's warning of the pools that another server made reads them, and Triton 2.51
    # may crash when ServerDelete frees these in that moment (half of the runs with 160 servers).
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)
    levels = {"log_info": False, "log_warn": guarded, "log_error": guarded}

    def work() -> None:
        try:
            barrier.wait(20)
            for _ in range(3):
                with tc.Server(repository, backend_directory=backends, guarded=guarded, **levels) as server:
                    server.load("add_sub")
                    server.infer("add_sub", {"INPUT0": _int32(1), "INPUT1": _int32(2)}, timeout=20).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
