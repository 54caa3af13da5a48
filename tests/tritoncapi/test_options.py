"""ServerOptions: each one does what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model_repos
import tritoncapi as tc
from tritoncapi import log
from tritoncapi.errors import (
    InternalError,
    InvalidArgError,
    UnavailableError,
    UnsupportedError,
)

NONE, POLL, EXPLICIT = tc.ModelControlMode
Make = Callable[..., tc.Server]


def states(server: tc.Server) -> dict[str, str]:
    return {entry.name: entry.state for entry in server.index()}


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
    with server.infer("there", {"INPUT0": np.array([1], np.int32)}) as response:
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
    server.infer("limited", {"INPUT0": np.array([1], np.int32)}).close()


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
