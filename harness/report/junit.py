"""JUnit XML: a test suite for each run, a test case for each check."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence

from ..runner import Result
from ..verdict import Check, Verdict, unknown
from .plain import pretty, shortened, visible

_EVIDENCE = 20_000  # characters of one test case
_ELEMENT = {Verdict.FAIL: "failure", Verdict.UNKNOWN: "error", Verdict.SKIPPED: "skipped"}
_LOG_LINES = 100


def junit(results: Sequence[Result]) -> str:
    """The XML. Fail is a failure, unknown an error, skipped is skipped: nobody must take unknown for passed."""
    root = ET.Element("testsuites", name="tritoncapi-harness")
    for result in results:
        _suite(root, result)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, result: Result) -> None:
    checks = [*result.checks, *_verdict(result)]
    counts = Counter(check.verdict for check in checks)
    suite = ET.SubElement(
        root,
        "testsuite",
        name=visible(result.scenario.name),
        tests=str(len(checks)),
        failures=str(counts[Verdict.FAIL]),
        errors=str(counts[Verdict.UNKNOWN]),
        skipped=str(counts[Verdict.SKIPPED]),
        time=f"{result.run.ended.seconds:.3f}",
        timestamp=_iso(str(result.described.get("started", ""))),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(result):
        ET.SubElement(properties, "property", name=visible(name), value=visible(value))
    seen: Counter[str] = Counter()
    for check in checks:
        seen[check.name] += 1
        name = check.name if seen[check.name] == 1 else f"{check.name} ({seen[check.name]})"
        _case(suite, result.scenario.name, name, check)
    tail = "\n".join(visible(line) for line in result.run.ended.log[-_LOG_LINES:])
    if tail and result.verdict != Verdict.PASS:
        ET.SubElement(suite, "system-err").text = tail


def _verdict(result: Result) -> Iterable[Check]:
    """A case for a verdict that no check stands for: nothing was checked, or all was skipped."""
    if result.verdict == Verdict.UNKNOWN and all(check.verdict != Verdict.UNKNOWN for check in result.checks):
        yield unknown("verdict", result.sentence)


def _case(suite: ET.Element, scenario: str, name: str, check: Check) -> None:
    case = ET.SubElement(suite, "testcase", classname=visible(f"tritoncapi-harness.{scenario}"), name=visible(name))
    case.set("time", "0")
    sentence = visible(check.sentence)
    element = _ELEMENT.get(check.verdict)
    if element is None:
        ET.SubElement(case, "system-out").text = sentence
        return
    found = ET.SubElement(case, element, message=sentence)
    if check.verdict != Verdict.SKIPPED:
        found.set("type", check.verdict.value)
        evidence = (f"{key}: {pretty(value)}" for key, value in check.evidence.items() if value not in (None, "", []))
        found.text = visible(shortened("\n".join([sentence, *evidence]), _EVIDENCE))


def _properties(result: Result) -> Iterable[tuple[str, str]]:
    yield "verdict", result.verdict.value
    yield "folder", str(result.folder)
    yield "command", str(result.described.get("command", ""))
    versions = result.described.get("versions")
    yield from ((f"version {name}", str(version)) for name, version in (versions or {}).items())


def _iso(started: str) -> str:
    """JUnit's schemas want no offset from UTC."""
    return visible(started[:19])
