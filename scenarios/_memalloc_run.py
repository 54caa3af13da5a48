"""memalloc's child: one server, one add/sub model, inputs and outputs where they were asked for; writes the journal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import model_repos
from harness.errors import UsageError
from harness.journal import Journal
from harness.scenario import Context, Operation, Outcome
from tritoncapi import (
    CPU,
    Buffer,
    DataType,
    Execution,
    InferenceRequest,
    Library,
    Place,
    ResponseAllocator,
    Server,
)
from tritoncapi.errors import Error, TritonError
from tritoncapi.tensor import datatype_of, encode

from . import _triton
from ._memalloc_tensors import POISON, as_type, note_output, numbers, operands
from .memalloc import ROUNDS

FAKE_POLICY = "fake_host_policy"
INPUTS, OUTPUTS = ("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1")
_DATATYPES = {"int32": DataType.INT32, "fp32": DataType.FP32, "bytes": DataType.BYTES}


@dataclass(frozen=True)
class Plan:
    """The command's options, read."""

    given: Place
    asked: Place | None  # None: where the model prefers it
    repository: Path | None
    model: str
    policy: str
    datatype: DataType
    backend: str
    model_place: Place | None  # None: as the user's own model says
    fault: str
    verbose: bool
    deadline: float  # time.monotonic()
    patience: float  # seconds for one answer

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Plan:
        """From the parent's parameters, which it has validated."""
        asked = options["output"]
        given = Place.parse(options["input"])
        device = options["model_device"]
        return cls(
            given=given,
            asked=None if asked == "preferred" else Place.parse(asked),
            repository=Path(options["repository"]) if options["repository"] else None,
            model=options["model"] or "",
            policy=options["host_policy"] or "",
            datatype=_DATATYPES[options["datatype"]],
            backend=options["backend"],
            model_place=Place.parse(device) if device else None,
            fault=options["fault"] or "",
            verbose=options["verbose"],
            deadline=time.monotonic() + options["timeout"],
            patience=options["timeout"] * 0.6,
        )

    @property
    def own_model(self) -> bool:
        """True for a model of ours, whose configuration we may extend."""
        return self.repository is None


@dataclass
class Bench:
    """The system: a server with its model. ``over`` says why no more rounds are made."""

    plan: Plan
    journal: Journal
    server: Server | None = None
    allocator: ResponseAllocator | None = None
    datatype: DataType = DataType.INVALID
    shape: tuple[int, ...] = ()
    over: str = ""
    orderly: bool = True
    stuck: bool = False  # a request is stuck in Triton: no stop would ever end

    def refused(self, what: str, error: TritonError) -> None:
        """Writes down what Triton refused."""
        self.journal.write("failed", what=what, text=str(error))
        self.over = f"{what} failed before"


@contextmanager
def system(context: Context) -> Iterator[Bench]:
    """Starts the server and loads the model; stops it and counts what is left when the rounds are over."""
    options, journal, folder = context.options, context.journal, context.folder
    plan = Plan.read(options)
    library = _triton.open_library(options["triton"], journal)
    journal.phase("looking at the machine")
    needed = {"the input (-i)": plan.given}
    if plan.asked is not None:
        needed["the output (-o)"] = plan.asked
    if plan.model_place is not None:
        needed["the model (--model-device)"] = plan.model_place
    _triton.require_places(needed)
    if plan.own_model and plan.backend == "python":
        _triton.require_python_backend(library, folder)
    elif plan.repository is not None and _triton.is_python_model(plan.repository / plan.model):
        _triton.require_python_backend(library, plan.repository / plan.model)
    repository, plan = prepare_model(plan, folder)

    journal.phase("starting the server")
    server_settings: dict[str, Any] = {"host_policies": {plan.policy: {"numa-node": "0"}}} if plan.policy else {}
    settings = _triton.server_options(
        folder,
        library,
        options["shm_prefix"],
        model_repository=repository,
        log_verbose=1 if plan.verbose else 0,
        **server_settings,
    )
    bench = Bench(plan, journal)
    try:
        bench.server = Server(settings)
    except TritonError as error:
        bench.refused("server", error)
        yield bench
        return
    try:
        if load_model(bench, bench.server):
            yield from allocating(bench)
        else:
            yield bench
    finally:
        bench.orderly = not bench.stuck and stop(bench.server, plan, journal)
    opened, strays = calls_left(library)
    journal.write("calls", open=opened, strays=strays)


def allocating(bench: Bench) -> Iterator[Bench]:
    """Gives the bench its allocator, and writes down in the end what became of its buffers."""
    rule = "preferred" if bench.plan.asked is None else bench.plan.asked
    with ResponseAllocator(rule, poison=POISON) as bench.allocator:  # type: ignore[arg-type]
        yield bench
        bench.journal.phase("counting what is left")
        ledger(bench.allocator, bench.plan, bench.journal)
        if bench.allocator.counts.live:
            bench.allocator.release()  # Triton still has buffers of it: deleting it would crash later


def prepare_model(plan: Plan, folder: Path) -> tuple[Path, Plan]:
    """The repository to serve: the user's, or a copy of ours with the instance group that was asked for."""
    if plan.repository is not None:
        return plan.repository, plan
    place = plan.model_place or CPU
    repository = folder / "repository"
    repository.mkdir()
    name = f"add_sub_{plan.datatype.name.lower()}_{plan.backend}"
    on_gpu = not place.on_host
    extra = model_repos.instance_group(
        "KIND_GPU" if on_gpu else "KIND_CPU", device=place.device if on_gpu else None, host_policy=plan.policy
    )
    if plan.backend == "python":
        extra += model_repos.parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no" if on_gpu else "yes")
    if plan.fault:
        extra += model_repos.parameter("fault", plan.fault)
    model_repos.copy_model(model_repos.folder("memalloc") / name, repository, extra)
    return repository, replace(plan, model=name)


def load_model(bench: Bench, server: Server) -> bool:
    """Loads the model and looks at it; False when Triton refuses it."""
    plan, journal = bench.plan, bench.journal
    metadata = server.metadata
    journal.write("server", live=server.live, ready=server.ready, name=metadata["name"], version=metadata["version"])
    journal.phase(f"loading the model {plan.model}")
    try:
        server.load(plan.model)
    except TritonError as error:
        bench.refused("load", error)
        return False
    model = server.model_metadata(plan.model)
    config = server.model_config(plan.model)
    journal.write(
        "model",
        name=plan.model,
        ready=server.model_ready(plan.model),
        inputs=model["inputs"],
        outputs=model["outputs"],
        backend=config.get("backend", ""),
        groups=config.get("instance_group", []),
    )
    bench.datatype, bench.shape = check_model(plan, model, config)
    return True


def check_model(plan: Plan, model: dict[str, Any], config: dict[str, Any]) -> tuple[DataType, tuple[int, ...]]:
    """Datatype and shape of the model's tensors. Raises UsageError for a model that memalloc cannot drive."""
    inputs = {tensor["name"]: tensor for tensor in model["inputs"]}
    outputs = {tensor["name"]: tensor for tensor in model["outputs"]}
    if not {*INPUTS} <= {*inputs} or not {*OUTPUTS} <= {*outputs}:
        raise UsageError(
            f"model {plan.model}: memalloc needs inputs INPUT0, INPUT1, outputs OUTPUT0 (sum), OUTPUT1 (difference); "
            f"it has {', '.join(inputs) or 'no inputs'} and {', '.join(outputs) or 'no outputs'}"
        )
    datatype = DataType[inputs["INPUT0"]["datatype"]]
    if datatype not in _DATATYPES.values() or inputs["INPUT1"]["datatype"] != datatype.name:
        raise UsageError(f"model {plan.model}: memalloc adds INT32, FP32 or BYTES, its inputs are {datatype.name}")
    if plan.policy:
        policies = instance_policies(config)
        if plan.policy not in policies:
            have = ", ".join(sorted(policies)) or "none"
            raise UsageError(
                f"model {plan.model}: no instance has the host policy {plan.policy}; its policies: {have} "
                "(set instance_group.host_policy in its config.pbtxt)"
            )
    shape = tuple(16 if n < 0 else n for n in inputs["INPUT0"]["shape"])
    if config.get("max_batch_size", 0) > 0:
        shape = (1, *shape[1:])
    return datatype, shape


def instance_policies(config: dict[str, Any]) -> set[str]:
    """The host policies of a model's instances, with Triton's defaults for groups that name none."""
    found = set()
    for group in config.get("instance_group", []):
        if group.get("host_policy"):
            found.add(group["host_policy"])
        elif group.get("kind") == "KIND_GPU":
            found.update(f"gpu_{device}" for device in group.get("gpus", []))
        else:
            found.add("model" if group.get("kind") == "KIND_MODEL" else "cpu")
    return found


def workload(bench: Bench, operation: Operation) -> Outcome:
    """One round: a request with inputs of its own. After one that was not answered no other is made."""
    if bench.over:
        return Outcome("unknown", {}, bench.over)
    bench.journal.phase(f"inferring ({operation.number + 1} of {ROUNDS})")
    try:
        return infer(bench, operation.number)
    except TritonError as error:
        bench.refused("infer", error)
        return Outcome("fail", {}, str(error))


def infer(bench: Bench, number: int) -> Outcome:
    """Makes the request, and says what came back in time."""
    plan, datatype, shape = bench.plan, bench.datatype, bench.shape
    assert bench.server is not None
    a, b = operands(number, datatype, shape)
    real = {"INPUT0": a, "INPUT1": b}
    zero = as_type(np.zeros(shape, dtype=np.int64), datatype)
    whole = [np.array(numbers(x)).reshape(shape) for x in (a, b)]
    expected = {"OUTPUT0": whole[0] + whole[1], "OUTPUT1": whole[0] - whole[1]}
    buffers: list[Buffer] = []
    execution: Execution | None = None
    request = InferenceRequest(bench.server, plan.model)
    try:
        for name in INPUTS:
            request.add_input(name, datatype_of(real[name]), shape)
            data, zeros = (Buffer.from_bytes(encode(x), plan.given) for x in (real[name], zero))
            buffers += [data, zeros]
            # With a policy: zeros for everybody else. Without: zeros for a policy that nobody has.
            request.append(name, zeros if plan.policy else data)
            request.append(name, data if plan.policy else zeros, host_policy=plan.policy or FAKE_POLICY)
        for name in OUTPUTS:
            request.add_output(name)
        execution = request.start(bench.allocator)
        timely = execution.wait(plan.patience)
        if not timely:
            bench.over = f"round {number + 1} did not come back"
            bench.stuck = not execution.released
            bench.journal.ask_for_stacks()
        return came_back(execution, expected, "" if timely else execution.explain(plan.patience))
    finally:
        request.close()
        if execution is None or execution.done:  # else Triton may still read them
            for buffer in buffers:
                buffer.close()


def came_back(execution: Execution, expected: dict[str, npt.NDArray[Any]], late: str) -> Outcome:
    """The responses, and each output's way and values."""
    errors, tensors, parameters, count = [], [], {}, 0
    while (response := execution.poll()) is not None:
        count += 1
        with response:
            error = response.error
            if error is not None:
                errors.append(str(error))
                continue
            parameters = {key: value for key, value in response.parameters.items() if not isinstance(value, bytes)}
            tensors += [note_output(output, expected.get(output.name)) for output in response]
    progress = execution.progress
    value = {
        "late": late,
        "responses": count,
        "finals": progress.finals,
        "releases": progress.releases,
        "errors": errors,
        "tensors": tensors,
        "expected": list(expected),
        "parameters": parameters,
        "seconds": ((progress.final_ns or progress.start_ns) - progress.start_ns) / 1e9,
    }
    right = [tensor["name"] for tensor in tensors if tensor.get("wrong") == 0]
    good = not late and not errors and sorted(right) == sorted(expected)
    return Outcome("ok" if good else "fail", value, late or "; ".join(errors))


def ledger(allocator: ResponseAllocator, plan: Plan, journal: Journal) -> None:
    """Writes down every allocation and the totals."""
    for record in allocator.records:
        journal.write(
            "allocation",
            tensor=record.tensor,
            nbytes=record.nbytes,
            asked="preferred" if plan.asked is None else str(plan.asked),
            preferred=str(record.preferred),
            actual=str(record.actual),
            address=record.address,
            releases=record.releases,
            mismatched=record.mismatched,
        )
    counts = allocator.counts
    journal.write("ledger", **{name: getattr(counts, name) for name in counts.__dataclass_fields__})


def stop(server: Server, plan: Plan, journal: Journal) -> bool:
    """Stops the server and writes down how that went; False when it would not."""
    journal.phase("stopping the server")
    began = time.monotonic()
    try:
        server.close(timeout=max(2.0, plan.deadline - began - 3.0))
    except Error as error:
        journal.write("stop", text=str(error), seconds=time.monotonic() - began)
        journal.ask_for_stacks()
        return False
    journal.write("stop", text="", seconds=time.monotonic() - began)
    return True


def calls_left(library: Library) -> tuple[int, int]:
    """Executions that are still open, and responses that came for nobody."""
    return library.native.open_calls()
