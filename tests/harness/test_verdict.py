"""Verdicts and exit codes: nothing passes by accident."""

from __future__ import annotations

import pytest

from harness.verdict import Check, ExitCode, Verdict, exit_code, failed, overall, passed, skipped, unknown

P, F, U, S = passed("p", ""), failed("f", ""), unknown("u", ""), skipped("s", "")


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([], Verdict.UNKNOWN),
        ([S], Verdict.UNKNOWN),
        ([U], Verdict.UNKNOWN),
        ([P], Verdict.PASS),
        ([P, S], Verdict.PASS),
        ([P, U], Verdict.UNKNOWN),
        ([P, U, F], Verdict.FAIL),
        ([F], Verdict.FAIL),
    ],
)
def test_overall(checks: list[Check], verdict: Verdict) -> None:
    assert overall(checks) == verdict


def test_exit_codes() -> None:
    assert [exit_code(v) for v in Verdict] == [ExitCode.PASS, ExitCode.FAIL, ExitCode.UNKNOWN, ExitCode.UNKNOWN]
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4]


def test_check_as_json() -> None:
    assert failed("values", "wrong", count=3).as_json() == {
        "name": "values",
        "verdict": "fail",
        "sentence": "wrong",
        "evidence": {"count": 3},
    }
