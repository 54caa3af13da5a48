"""matrix's command line; apart from the scenario, so that the child does without click."""

from __future__ import annotations

from typing import Any

import click

from harness.command import run_and_report, run_options
from harness.errors import UsageError
from harness.options import json_option, timeout_option, triton_option
from model_repos import faults

from ._matrix_axes import VALUES, read_filter
from .matrix import FULL_LIMIT, LIMIT, complete


def _axes() -> str:
    """The axes for --help, each in a line of its own."""
    lines = (f"{axis}: {', '.join(values).replace('gpu', 'gpu:N')}" for axis, values in VALUES.items())
    return "\b\n" + "\n".join(lines)


_HELP = f"""Runs every placement of tensors: values, places, releases and the log are checked in each cell.

Without --full a choice of cells in which every possible pair of values occurs. A cell is named by its values, and
--only takes that name; gpu stands for every GPU. Several --only must all hold, one --skip is enough.

{_axes()}
"""


@click.command(help=_HELP)
@click.option("--full", is_flag=True, help="All cells, not only a choice in which every pair of values occurs.")
@click.option("--only", multiple=True, metavar="FILTER", help="axis=value,value,axis=value: only these cells.")
@click.option("--skip", multiple=True, metavar="FILTER", help="Likewise: not these cells.")
@click.option("--fault", metavar="NAME[:VALUE]", help="Plant a fault in all native models, to see its cells fail.")
@click.option("-v", "--verbose", is_flag=True, help="Verbose Triton log, in the run's folder.")
@timeout_option(None, f"{LIMIT:g}, with --full {FULL_LIMIT:g}")
@triton_option
@json_option
@run_options
def command(**options: Any) -> None:
    """See ``_HELP``."""
    own = {name: options.pop(name) for name in ("json_file", "runs", "quiet", "in_process")}
    for name in ("only", "skip"):
        options[name] = list(options[name])
        for text in options[name]:
            read_filter(text, f"--{name}")
    _check_fault(options["fault"])
    if options["triton"] == "":
        raise UsageError("--triton is empty")
    run_and_report("scenarios.matrix:build", complete(options), own)


def _check_fault(fault: str | None) -> None:
    if fault is None:
        return
    try:
        names = faults.names(fault)
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from None
    for name in names:
        if name.startswith("leak_"):
            raise UsageError(f"--fault {name}: the matrix sees no leak; multiserver sees leak_*_load")
