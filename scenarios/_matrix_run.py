"""The matrix's child: one server for all cells, their models loaded as they come due; writes the journal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import LacksError, UsageError
from harness.journal import Journal
from harness.scenario import Context
from tritoncapi import Server
from tritoncapi.errors import Error

from . import _triton
from ._matrix_axes import Cell, name_of, read_filter, reason
from ._matrix_cell import Findings, run_cell
from ._matrix_choice import Choice, choose, narrowed
from ._matrix_known import KNOWN, Known, known_for, version_of
from ._matrix_machine import Machine, check_only, look
from ._matrix_models import NATIVE, asked_of, model_of, write_models
from ._memalloc_checks import COPY_ERROR

_LOADERS = 4  # threads that load models


@dataclass
class Bench:
    """The system: the server, the cells in their order, and the models that are there."""

    options: dict[str, Any]
    journal: Journal
    folder: Path
    machine: Machine
    server: Server
    version: tuple[int, int]
    cells: Sequence[Cell] = ()
    loaded: dict[str, str] = field(default_factory=dict)
    """Model -> why it is not there; nothing for one that is."""
    stuck: dict[str, str] = field(default_factory=dict)
    """Model -> the cell that it never answered."""
    loading: float = 0.0  # seconds
    began: float = 0.0
    log_read: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    orderly: bool = True

    @property
    def patience(self) -> float:
        """Seconds for one answer."""
        return float(min(30.0, 0.15 * self.options["timeout"]))


@contextmanager
def system(context: Context) -> Iterator[Bench]:
    """Starts the server, chooses the cells; in the end stops the server and writes down what is left."""
    options, journal, folder = dict(context.options), context.journal, context.folder
    only = [read_filter(text) for text in options["only"]]
    skip = [read_filter(text, "--skip") for text in options["skip"]]
    library = _triton.open_library(options["triton"], journal)
    journal.phase("looking at the machine")
    machine = look(library, folder)
    check_only(machine.axes, only)
    journal.phase("starting the server")
    repository = folder / "repository"
    for made in (repository, folder / "backends"):  # by a child that crashed
        shutil.rmtree(made, ignore_errors=True)
    repository.mkdir()  # filled once the server's version is known, which decides what is expected
    settings = _triton.server_options(
        folder,
        library,
        options["shm_prefix"],
        model_repository=repository,
        # Completing configurations would start each stub twice.
        strict_model_config=True,
        log_verbose=1 if options["verbose"] else 0,
    )
    with _stopping(settings, journal, options, machine) as bench:
        bench.folder = folder
        single = any(each.is_one_cell() for each in only)
        choice = choose(
            narrowed(machine.axes, only),
            [*machine.reasons, *(reason(each.text, "--skip") for each in skip)],
            KNOWN,
            bench.version,
            full=options["full"] or single,
            spared=machine.spared,
        )
        bench.cells = sorted(choice.cells, key=_order)
        if options["done"]:
            bench.cells = bench.cells[options["done"] :]
        else:
            note_plan(bench, choice, bench.cells)
        if not bench.cells:
            reasons = "; ".join(f"{why} ({count})" for why, count in choice.left_out.items())
            raise (UsageError if "--skip" in choice.left_out else LacksError)(f"no cell can be run: {reasons}")
        write_models(repository, bench.cells, options["fault"] or "")
        yield bench
        note_summary(bench)
    opened, strays = library.native.open_calls()
    journal.write("calls", open=opened, strays=strays)


@contextmanager
def _stopping(settings: Any, journal: Journal, options: dict[str, Any], machine: Machine) -> Iterator[Bench]:
    server = Server(settings)
    bench = Bench(options, journal, Path(), machine, server, version_of(server.metadata["version"]))
    try:
        yield bench
    finally:
        journal.phase("stopping the server")
        began = time.monotonic()
        text = ""
        if bench.stuck:
            text = f"{len(bench.stuck)} model(s) still have a request, so the server was not stopped"
            bench.orderly = False
        else:
            try:
                server.close(timeout=min(15.0, max(5.0, 0.3 * options["timeout"])))
            except Error as error:
                text = str(error)
                bench.orderly = False
                journal.ask_for_stacks()
        journal.write("stop", text=text, seconds=time.monotonic() - began)


def _order(cell: Cell) -> tuple[bool, str, str, str]:
    """Native models first, cells of one model together."""
    return cell["backend"] != NATIVE, cell["backend"], cell["model"], cell["type"]


def note_plan(bench: Bench, choice: Choice, cells: Sequence[Cell]) -> None:
    """Writes down which cells are run, and what became of the others."""
    bench.journal.write(
        "plan",
        triton=".".join(map(str, bench.version)),
        devices=bench.machine.devices,
        axes={axis: list(values) for axis, values in bench.machine.axes.items()},
        full=bench.options["full"],
        selected=len(cells),
        possible=choice.possible,
        nominal=choice.nominal,
        left_out=dict(choice.left_out),
        spared=dict(choice.spared),
        pairs=choice.pairs,
        pairs_impossible=choice.pairs_impossible,
        known=[{"name": row.name, "cells": row.cells.text, "evidence": row.evidence} for row in KNOWN],
    )


def note_summary(bench: Bench) -> None:
    """Writes down how the cells went, and how fast."""
    seconds = time.monotonic() - bench.began - bench.loading
    done = sum(bench.outcomes.values())
    bench.journal.write(
        "matrix",
        outcomes=bench.outcomes,
        cells=len(bench.cells),
        done=done,
        seconds=seconds,
        loading_seconds=bench.loading,
        rate=done / seconds if seconds > 0 else 0.0,
    )


def do_cell(bench: Bench, number: int) -> str:
    """Runs one cell and writes it down; returns its outcome."""
    cell = bench.cells[number]
    name = name_of(cell)
    if not number:
        bench.began = time.monotonic()
    _prepare(bench, number)
    bench.journal.write("begun", cell=name)
    known = known_for(cell, bench.version)
    model = model_of(cell)
    if model in bench.stuck:
        found = Findings()
        outcome, evidence = "unknown", f"not run: its model never answered {bench.stuck[model]}"
    else:
        found = _run(bench, cell, name)
        outcome, evidence = judge_cell(found.problems, known)
    if found.stuck:
        bench.stuck[model] = name
        bench.journal.ask_for_stacks()
    bench.outcomes[outcome] = bench.outcomes.get(outcome, 0) + 1
    bench.journal.write(
        "cell",
        cell=name,
        axes=dict(cell),
        outcome=outcome,
        expected="fail" if known else "pass",
        known=known.name if known else "",
        evidence=evidence,
        ms=round(found.ms, 4),
        problems=[list(problem) for problem in found.problems],
        tensors=found.tensors,
    )
    return outcome


def judge_cell(problems: Sequence[tuple[str, str]], known: Known | None) -> tuple[str, str]:
    """Outcome and evidence. A failed copy in the log goes with a failure that is known for its values."""
    text = "; ".join(dict.fromkeys(found for _, found in problems))
    if known is None:
        return ("fail", text) if problems else ("pass", "")
    if not problems:
        return "unexpected_pass", f"expected to fail: {known.evidence}"
    if {check for check, _ in problems} - {"log"} == {known.check}:
        return "known", f"{known.evidence} ({text})"
    return "fail", text


def _run(bench: Bench, cell: Cell, name: str) -> Findings:
    refused = bench.loaded.get(model_of(cell)) or bench.loaded.get(asked_of(cell))
    if refused:
        found = Findings()
        found.add("model", f"the model did not load: {refused}")
        return found
    found = run_cell(bench.server, cell, name, bench.machine.devices, bench.patience)
    for line in _new_copy_errors(bench):
        found.add("log", f"Triton logged: {line}")
    return found


def _new_copy_errors(bench: Bench) -> list[str]:
    """What Triton's log says of failed copies since this was last asked."""
    path = bench.folder / "triton.log"
    try:
        if path.stat().st_size == bench.log_read:
            return []
        with path.open("rb") as file:
            file.seek(bench.log_read)
            new = file.read()
    except OSError:
        return []
    bench.log_read += len(new)
    return [line.strip() for line in new.decode(errors="replace").splitlines() if COPY_ERROR.search(line)]


# Models


def _prepare(bench: Bench, number: int) -> None:
    """Has the cell's model loaded, and with it those that come next: many at a time."""
    cell = bench.cells[number]
    if model_of(cell) in bench.loaded and asked_of(cell) in bench.loaded:
        return
    began = time.monotonic()
    native = cell["backend"] == NATIVE
    due: dict[str, None] = {}
    asked: dict[str, None] = {}
    for each in bench.cells[number:]:
        if (each["backend"] == NATIVE) != native or (not native and len({*due, model_of(each)}) > bench.machine.stubs):
            break
        due[model_of(each)] = None
        asked[asked_of(each)] = None
    if not native:
        _unload(bench, number)
    names = ", ".join([*due, *(name for name in asked if name not in due)][:8])
    bench.journal.phase(f"loading models ({names})")  # a crash is in one of these
    _load(bench, list(due))
    _load(bench, [name for name in asked if name not in due])  # ensembles, once what they are made of is there
    passed = time.monotonic() - began
    bench.loading += passed
    bench.journal.write("loaded", models=list(due | asked), seconds=passed)
    bench.journal.phase("running")
    bench.log_read += len(_ignored(bench))


def _ignored(bench: Bench) -> bytes:
    """What the log says of loading is no cell's."""
    path = bench.folder / "triton.log"
    return path.read_bytes()[bench.log_read :] if path.exists() else b""


def _load(bench: Bench, models: Sequence[str]) -> None:
    def load(model: str) -> str:
        try:
            bench.server.load(model)
        except Error as error:
            return str(error)
        return ""

    missing = [model for model in models if model not in bench.loaded]
    with ThreadPoolExecutor(_LOADERS) as pool:
        bench.loaded.update(zip(missing, pool.map(load, missing), strict=True))


def _unload(bench: Bench, number: int) -> None:
    """Lets go of the Python models whose cells are over: each is a process and holds shared memory."""
    over = bench.cells[:number]
    ensembles = {asked_of(cell) for cell in over if cell["backend"] != NATIVE}
    models = {model_of(cell) for cell in over if cell["backend"] != NATIVE}
    for model in [*(ensembles - models), *models]:
        if bench.loaded.get(model) == "":
            bench.server.unload(model)
            bench.loaded[model] = "it is unloaded"
