"""Options that several commands share."""

from __future__ import annotations

import math
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


class Seconds(click.FloatRange):
    """A time that can be waited for: above 0 (or from ``least`` on), at most a million seconds, and a number."""

    def __init__(self, least: float = 0) -> None:
        super().__init__(min=least, min_open=least == 0, max=1e6)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; NaN is below and above nothing, so a range lets it pass."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            raise click.BadParameter(f"{value!r} is no time", ctx, param)
        return number


class Share(click.FloatRange):
    """0 to 1, and a number."""

    def __init__(self) -> None:
        super().__init__(min=0, max=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            raise click.BadParameter(f"{value!r} is no share", ctx, param)
        return number


def timeout_option(default: float | None, otherwise: str = "") -> Decorator:
    """``--timeout`` in seconds; without a default ``otherwise`` says what holds then."""
    return click.option(
        "--timeout",
        type=Seconds(),
        default=default,
        show_default=otherwise or True,
        metavar="SECONDS",
        help="End the run, and call it a hang, after this time.",
    )
