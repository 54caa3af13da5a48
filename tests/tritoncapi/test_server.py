"""Server: its options, its models' life, and how it ends."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import fields
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
    UnsupportedError,
)

NONE, POLL, EXPLICIT = tc.ModelControlMode
Make = Callable[..., tc.Server]


@pytest.fixture
def models(tmp_path: Path, tools: Any) -> Path:
    """A repository of one's own, with the model ``one``."""
    tools.add_model(tmp_path / "models", "one")
    return tmp_path / "models"


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


# Options


def test_no_option_is_forgotten() -> None:
    text = Path(__file__).read_text()
    untested = [
        field.name
        for field in fields(tc.ServerOptions)
        if f"{field.name}=" not in text and f'"{field.name}":' not in text
    ]
    assert untested == []


def test_options_as_keywords(models: Path, backends: Path) -> None:
    with tc.Server(models, backend_directory=backends, log_info=False, server_id="keywords") as server:
        assert server.options.server_id == "keywords"
        assert server.options.repositories == [str(models)]
    with pytest.raises(TypeError, match="either ServerOptions or their fields"):
        tc.Server(tc.ServerOptions(), server_id="x")
    with pytest.raises(TypeError, match="nonsense"):
        tc.Server(models, nonsense=1)


def test_server_id(make_server: Make, models: Path) -> None:
    assert make_server(models, server_id="mine").metadata["name"] == "mine"


def test_several_repositories(make_server: Make, models: Path, tmp_path: Path, tools: Any) -> None:
    tools.add_model(tmp_path / "more", "two")
    server = tc.Server(tc.ServerOptions(model_repository=[models, tmp_path / "more"], log_info=False))
    with server:
        assert set(states(server)) == {"one", "two"}


def test_no_repository() -> None:
    with pytest.raises(InvalidArgError, match="--model-repository must be specified"):
        tc.Server(tc.ServerOptions(log_info=False))
    with pytest.raises(InternalError, match="failed to stat file /no/where"):
        tc.Server("/no/where", log_info=False)


def test_all_models_at_start(make_server: Make, models: Path) -> None:
    server = make_server(models, model_control_mode=NONE)
    assert states(server) == {"one": "READY"}
    for change in (server.load, server.unload):
        with pytest.raises(UnavailableError, match="not allowed"):
            change("one")
    with pytest.raises(UnavailableError, match="polling is disabled"):
        server.poll_repository()


def test_polling(make_server: Make, models: Path, tools: Any) -> None:
    server = make_server(models, model_control_mode=POLL)
    assert states(server) == {"one": "READY"}
    tools.add_model(models, "late")
    server.poll_repository()
    assert states(server) == {"one": "READY", "late": "READY"}
    shutil.rmtree(models / "late")
    server.poll_repository()
    assert not server.model_ready("late")
    with pytest.raises(UnavailableError):
        server.load("one")


def test_start_up_models(make_server: Make, models: Path, tools: Any) -> None:
    tools.add_model(models, "two")
    server = make_server(models, startup_models=["two"])
    assert states(server) == {"one": "", "two": "READY"}


@pytest.mark.parametrize(("strict", "ready"), [(True, False), (False, True), (None, False)])
def test_readiness_with_a_model_that_failed(
    make_server: Make, models: Path, tools: Any, strict: bool | None, ready: bool
) -> None:
    tools.add_model(models, "bad", fault="fail_model_init")
    server = make_server(models, model_control_mode=NONE, exit_on_error=False, strict_readiness=strict)
    assert (server.live, server.ready) == (True, ready)
    assert states(server) == {"one": "READY", "bad": "UNAVAILABLE"}


def test_a_start_that_fails(make_server: Make, tmp_path: Path, tools: Any) -> None:
    # No other model beside it: a failing start unloads those in the moment they are loaded, see the next test.
    tools.add_model(tmp_path, "bad", fault="fail_model_init")
    with pytest.raises(InternalError, match="failed to load all models"):
        make_server(tmp_path, model_control_mode=NONE)
    with pytest.raises(InvalidArgError, match="Internal: planted fault: fail_model_init"):
        make_server(tmp_path, startup_models=["bad"])


@pytest.mark.parametrize("change", ["unload", "reload", "close"])
def test_unloading_at_once_on_a_busy_machine(child: Any, models: Path, backends: Path, change: str) -> None:
    # Triton 2.51 crashes when it unloads a model whose thread has not put its instance back yet. Without Server's
    # precaution 200 rounds never ended well on a busy machine.
    source = """
import json, os, subprocess, sys, tritoncapi as tc
repository, backends, change = sys.argv[1:]
levels = {"log_info": False, "log_warn": False, "log_error": False}
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
try:
    server = tc.Server(repository, backend_directory=backends, **levels)
    for index in range(40):
        if change == "close":
            with tc.Server(repository, backend_directory=backends, **levels) as other:
                other.load("one")
            continue
        server.load("one")
        if change == "unload":
            server.unload("one", timeout=30)
        else:
            config = server.model_config("one")
            config["parameters"]["round"] = {"string_value": str(index)}
            server.load("one", {"config": json.dumps(config)})
finally:
    for process in busy:
        process.kill()
        process.wait()
print("through")
"""
    assert child(source, models, backends, change, timeout=120).strip() == "through"


@pytest.mark.parametrize("strict", [True, False])
def test_strict_configuration(make_server: Make, models: Path, tmp_path: Path, strict: bool) -> None:
    # Without a configuration, Triton goes by the model's files; with strictness it does not even look at them.
    (models / "one" / "config.pbtxt").unlink()
    (models / "one" / "1" / "model.py").write_text("")
    file = tmp_path / "log"
    server = make_server(models, strict_model_config=strict, log_file=file)
    try:
        if strict:
            with pytest.raises(InternalError, match="failed to poll from model repository"):
                server.load("one")
            assert "config.pbtxt" in file.read_text()
        else:
            assert server.options.strict_model_config is False
    finally:
        log.configure(file="")


def test_a_named_configuration(make_server: Make, models: Path) -> None:
    folder = models / "one"
    (folder / "configs").mkdir()
    text = (folder / "config.pbtxt").read_text() + "max_batch_size: 5\n"
    (folder / "configs" / "other.pbtxt").write_text(text)
    for name, batch in ((None, 0), ("other", 5), ("none", 0)):
        server = make_server(models, model_config_name=name)
        server.load("one")
        assert server.model_config("one")["max_batch_size"] == batch


def test_namespaces(make_server: Make, models: Path, tmp_path: Path, tools: Any) -> None:
    tools.add_model(tmp_path / "more", "one")
    both = [models, tmp_path / "more"]
    server = make_server(both, model_namespacing=False)
    with pytest.raises(InternalError, match="failed to poll"):
        server.load("one")
    server = make_server(both, model_namespacing=True)
    server.load("one")
    with pytest.raises(InvalidArgError, match="There are 2 identifiers of model 'one'"):
        server.request("one")


def test_host_policies(make_server: Make, models: Path, tools: Any) -> None:
    tools.add_model(models, "there", instances=model_repos.instance_group("KIND_CPU", host_policy="mine"))
    server = make_server(models, host_policies={"mine": {"numa-node": "0"}}, startup_models=["there"])
    with server.infer("there", {"INPUT0": _int32(1)}) as response:
        assert response.parameters["host_policy"] == "mine"
    with pytest.raises(UnsupportedError, match="Unsupported host policy setting 'nonsense'"):
        make_server(models, host_policies={"mine": {"nonsense": "0"}})


def test_rate_limiter(make_server: Make, models: Path, tools: Any) -> None:
    limited = "instance_group [{ kind: KIND_CPU rate_limiter { resources [{ name: 'R' count: 9 }] } }]"
    tools.add_model(models, "limited", instances=limited)
    few, enough = (tc.Resource("R", count) for count in (4, 9))
    on = tc.RateLimitMode.EXEC_COUNT
    server = make_server(models, rate_limit_mode=on, rate_limiter_resources=[few])
    with pytest.raises(InvalidArgError, match='Resource count for "R" is limited to 4'):
        server.load("limited")
    server = make_server(models, rate_limit_mode=on, rate_limiter_resources=[enough])
    server.load("limited")
    server.infer("limited", {"INPUT0": _int32(1)}).close()


CACHED = """
import sys, numpy as np, tritoncapi as tc
from tritoncapi.errors import Error
repository, backends, settings = sys.argv[1:]
try:
    with tc.Server(repository, backend_directory=backends, log_info=False, **eval(settings)) as server:
        server.load("one")
        for _ in range(3):
            server.infer("one", {"INPUT0": np.array([1], np.int32)}).close()
        print(server.model_statistics("one")[0]["inference_stats"]["cache_hit"]["count"])
except Error as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cache_config": {"local": {"size": 1 << 20}}}, "2"),
        ({"response_cache_bytes": 1 << 20}, "2"),
        ({}, "0"),
        ({"cache_config": {"local": {"size": 1 << 20}}, "cache_directory": "/no/where"}, "unable to find"),
    ],
)
def test_response_cache(child: Any, tmp_path: Path, backends: Path, tools: Any, settings: Any, said: str) -> None:
    # In a process of its own: a process has one cache, which outlives its server.
    tools.add_model(tmp_path, "one", extra="response_cache { enable: true }")
    assert said in child(CACHED, tmp_path, backends, settings)


def test_backend_directory(make_server: Make, models: Path, library: tc.Library) -> None:
    server = make_server(models, backend_directory=library.triton.backends)
    with pytest.raises(
        InvalidArgError, match=f"unable to find backend library for backend '{model_repos.TEST_BACKEND}'"
    ):
        server.load("one")


METRICS = """
import sys, numpy as np, tritoncapi as tc
repository, backends, settings = sys.argv[1:]
with tc.Server(repository, backend_directory=backends, log_info=False, **eval(settings)) as server:
    server.load("one")
    server.infer("one", {"INPUT0": np.array([1], np.int32)}).close()
    try:
        print(server.metrics())
    except tc.errors.Error as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("settings", "there", "missing"),
    [
        ({"metrics": True, "cpu_metrics": True, "gpu_metrics": False}, "nv_cpu_utilization", "request_summary"),
        ({"metrics": True, "cpu_metrics": False, "metrics_interval_ms": 100}, "nv_inference_count", "nv_cpu"),
        ({"metrics": False}, 'nv_inference_count{model="one",version="1"} 0', "nv_cpu_utilization 0."),
        ({"metrics_config": {"": {"summary_latencies": "true"}}}, "nv_inference_request_summary_us", "nonsense"),
    ],
)
def test_metrics_settings(
    child: Any, models: Path, backends: Path, settings: dict[str, Any], there: str, missing: str
) -> None:
    # In a process of its own: the registry of metrics belongs to the process.
    text = child(METRICS, models, backends, settings)
    assert there in text
    assert missing not in text


LOGGED = """
import sys, tritoncapi as tc
from tritoncapi import log
repository, backends, settings = sys.argv[1:]
with tc.Server(repository, backend_directory=backends, **eval(settings)):
    print(*(int(log.is_enabled(level)) for level in tc.LogLevel))
"""


@pytest.mark.parametrize(
    ("settings", "levels", "written"),
    [
        ({"log_info": True, "log_verbose": 0}, "1 1 1 0", "I"),
        ({"log_info": False, "log_warn": False, "log_error": False}, "0 0 0 0", ""),
        ({"log_info": False, "log_warn": False, "log_error": True, "log_verbose": 1}, "0 0 1 1", "I"),
        ({"log_format": tc.LogFormat.ISO8601, "log_info": True}, "1 1 1 0", "20"),
    ],
)
def test_log_settings(
    child: Any, models: Path, backends: Path, tmp_path: Path, settings: dict[str, Any], levels: str, written: str
) -> None:
    file = tmp_path / "log"
    plain = {key: int(value) if key == "log_format" else value for key, value in settings.items()}
    assert child(LOGGED, models, backends, {**plain, "log_file": str(file)}).strip() == levels
    lines = file.read_text().splitlines()
    assert any(line.startswith(written) for line in lines) if written else not lines


def test_other_options_are_taken(make_server: Make, models: Path, tmp_path: Path) -> None:
    server = make_server(
        models,
        exit_timeout=3,
        buffer_manager_threads=2,
        model_load_threads=2,
        model_load_retry_count=1,
        pinned_memory_pool_bytes=1 << 20,
        cuda_memory_pool_bytes={0: 1 << 20},
        cuda_virtual_address_bytes={0: 1 << 20},
        enable_peer_access=False,
        min_compute_capability=6.0,
        model_load_device_limits=[tc.DeviceLimit(tc.InstanceGroupKind.GPU, 0, 0.5)],
        repoagent_directory=tmp_path,
        backend_config={model_repos.TEST_BACKEND: {"a": "b"}, "": {"default-max-batch-size": "3"}},
        log_warn=True,
        log_error=True,
    )
    server.load("one")
    assert server.model_ready("one")


def test_a_failing_model_is_tried_again_as_often_as_told(
    make_server: Make, models: Path, tmp_path: Path, tools: Any
) -> None:
    tools.add_model(models, "bad", fault="fail_model_init")
    counted = []
    for retries in (0, 2):
        file = tmp_path / f"log{retries}"
        server = make_server(models, model_load_retry_count=retries, log_file=file)
        with pytest.raises(InvalidArgError):
            server.load("bad")
        log.configure(file="")
        counted.append(file.read_text().count("planted fault: fail_model_init"))
    assert counted[1] == 3 * counted[0] > 0


def test_options_that_triton_refuses(make_server: Make, models: Path) -> None:
    with pytest.raises(InvalidArgError):
        make_server(models, model_load_device_limits=[tc.DeviceLimit(tc.InstanceGroupKind.CPU, 0, 7.0)])


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
