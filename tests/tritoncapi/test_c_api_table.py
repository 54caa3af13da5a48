"""docs/c-api.md, which says of each function of the C API what tests it."""

from __future__ import annotations

import re
from pathlib import Path

from tritoncapi._bindings import PREFIX, ROWS

TESTS = Path(__file__).parent
TABLE = TESTS.parents[1] / "docs" / "c-api.md"


def rows() -> dict[str, tuple[str, str]]:
    found = re.findall(r"^\| `(\w+)` \| (\S+) \| (.*) \|$", TABLE.read_text(), re.MULTILINE)
    return {name: (since, tests) for name, since, tests in found}


def test_it_lists_every_function_with_its_version() -> None:
    assert {name: since for name, (since, _) in rows().items()} == {
        PREFIX + name: ".".join(map(str, row.since)) for name, row in ROWS.items()
    }


def test_it_names_tests_that_there_are_or_a_reason() -> None:
    for function, (_, named) in rows().items():
        tests = re.findall(r"`(\w+\.py)::(\w+)`", named)
        assert tests or re.fullmatch(r"none: .{10,}", named), function
        for file, test in tests:
            assert f"def {test}(" in (TESTS / file).read_text(), f"{function}: {file}::{test}"


def test_its_count_is_right() -> None:
    called = sum("none:" not in named for _, named in rows().values())
    assert f"The tests call {called} of them" in TABLE.read_text()
