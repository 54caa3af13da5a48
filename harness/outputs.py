"""The files that a command was asked to write its results to, beside what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import LacksError, UsageError
from .json_file import check_writable, json_text, write_text

if TYPE_CHECKING:
    from .runner import Result


@dataclass(frozen=True)
class Outputs:
    """A path or None for each format. ``check`` before the measurement, ``write`` after the verdict was shown."""

    json: Path | None = None
    html: Path | None = None
    junit: Path | None = None
    whole: bool = False
    """The JSON is a report of all runs, with their figures; else it is that of the one run."""

    @property
    def on_stdout(self) -> bool:
        """Whether standard output belongs to the JSON."""
        return str(self.json) == "-"

    @property
    def any(self) -> bool:
        """Whether anything is to be written."""
        return any(path is not None for _, path in self._named())

    def check(self) -> None:
        """Raises UsageError for a file that cannot be written, and for one that would be written twice."""
        taken: dict[Path, str] = {}
        for option, path in self._named():
            if path is None:
                continue
            if str(path) == "-" and option != "--json":
                raise UsageError(f"{option} -: give a file; only --json can go to standard output")
            check_writable(path, option)
            if (path.is_file() or not path.exists()) and (other := taken.get(path.resolve())):
                raise UsageError(f"{option} {path}: {other} writes there too; give another file")
            taken[path.resolve()] = option

    def write(self, results: Sequence[Result]) -> list[str]:
        """Writes them all; returns a sentence for each that could not be. None of them keeps another from being."""
        problems = []
        for (option, path), make in zip(self._named(), (self._json, _html, _junit), strict=True):
            if path is None:
                continue
            try:
                write_text(path, make(results), option)
            except LacksError as error:
                problems.append(str(error))
            except Exception as error:  # a report that breaks must not take the verdict with it
                problems.append(f"{option} {path}: it could not be made: {type(error).__name__}: {error}")
        return problems

    def _named(self) -> Iterator[tuple[str, Path | None]]:
        yield from (("--json", self.json), ("--html", self.html), ("--junit", self.junit))

    def _json(self, results: Sequence[Result]) -> str:
        from .report.document import document  # noqa: PLC0415

        return json_text(document(results) if self.whole else results[0].as_json())


def _html(results: Sequence[Result]) -> str:
    from .report.page import page  # noqa: PLC0415 - jinja2 and scipy take their time

    return page(results)


def _junit(results: Sequence[Result]) -> str:
    from .report.junit import junit  # noqa: PLC0415

    return junit(results)
