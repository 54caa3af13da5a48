"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

triton_option: Decorator = click.option(
    "--triton",
    metavar="PATH",
    help="The Triton to run: a libtritonserver.so or a root directory. "
    "Default: $TRITONCAPI_TRITON, /opt/tritonserver, the installed wheel.",
)

json_option: Decorator = click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result as JSON (- for standard output).",
)


def timeout_option(default: float) -> Decorator:
    """``--timeout`` in seconds."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help="End the run, and call it a hang, after this time.",
    )
