"""Triton's log. It belongs to the process, not to a server: the last setting wins for all of them."""

from __future__ import annotations

import os

from ._library import Library, load
from ._types import LogFormat, LogLevel


def configure(
    *,
    file: str | os.PathLike[str] | None = None,
    info: bool | None = None,
    warn: bool | None = None,
    error: bool | None = None,
    verbose: int | None = None,
    format: LogFormat | None = None,  # noqa: A002 - Triton's word
    library: Library | None = None,
) -> None:
    """Changes the settings given; at any time (``TRITONSERVER_ServerOptionsSetLog*`` without options).

    ``file=""`` lets the log go to stderr again.
    """
    api = (library or load()).api
    if file is not None:
        api.ServerOptionsSetLogFile(None, os.fsencode(file))
    for function, value in (
        (api.ServerOptionsSetLogInfo, info),
        (api.ServerOptionsSetLogWarn, warn),
        (api.ServerOptionsSetLogError, error),
        (api.ServerOptionsSetLogVerbose, verbose),
        (api.ServerOptionsSetLogFormat, format),
    ):
        if value is not None:
            function(None, value)


def is_enabled(level: LogLevel, library: Library | None = None) -> bool:
    """Whether lines of this level are written (``TRITONSERVER_LogIsEnabled``)."""
    return bool((library or load()).api.LogIsEnabled(level))


def write(
    level: LogLevel, message: str, file: str = "tritoncapi", line: int = 0, library: Library | None = None
) -> None:
    """Writes a line into Triton's log (``TRITONSERVER_LogMessage``)."""
    (library or load()).api.LogMessage(level, file.encode(), line, message.encode())
