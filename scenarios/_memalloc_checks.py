"""memalloc's checks: what the journal says, judged. Pure functions of a finished run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.child import Ended
from harness.endings import process_check
from harness.journal import Event, all_of, last
from harness.scenario import Run
from harness.verdict import Check, Verdict, failed, passed, skipped, unknown

from .memalloc import ROUNDS

# Lines of Triton's log, or of a stub's output, that say that data did not get where it should.
COPY_ERROR = re.compile(
    r"fail(ed|ure)?\b.{0,40}\bcop(y|ied|ying)|cop(y|ying)\b.{0,60}\b(fail|error)|cudaMemcpy"
    r"|illegal memory access|misaligned address",
    re.IGNORECASE,
)


def judge(run: Run) -> list[Check]:
    """All checks of a run; those that its early end made impossible are left out."""
    ended, options, events = run.ended, run.options, run.ended.events
    checks = _failures(ended)
    server, model = last(events, "server"), last(events, "model")
    if server is not None:
        checks.append(_server(server))
    if model is not None:
        checks.append(_model(model))
    rounds = rounds_of(run)
    if rounds:
        checks += [_answers(rounds), _values(rounds, options), _places(rounds, events, options)]
        checks += [_computed(rounds, events, options), _policy(rounds, options, ended)]
    if model is not None and not any(check.verdict == Verdict.FAIL for check in checks):
        checks += _unanswered(run, rounds)
    # A request that never came back explains a hang; a crash explains everything else.
    end = _end(run)
    checks = [*checks, *end] if any(each["late"] for each in rounds) else [*end, *checks]
    checks += _ledger(events)
    checks += _left(events, ended)
    if server is not None:
        log = _log(ended)
        # A copy that failed explains the values, so it comes before them.
        checks.insert(0, log) if log.verdict == Verdict.FAIL and rounds else checks.append(log)
    return checks


def rounds_of(run: Run) -> list[Event]:
    """What came back of each request that was made, and its ``number``."""
    return [{"number": op["number"], **op["value"]} for op in run.operations if "tensors" in op["value"]]


def _unanswered(run: Run, rounds: list[Event]) -> list[Check]:
    """Rounds of which nothing is known, where no failure says why."""
    if len(rounds) >= ROUNDS:
        return []
    if broken := [op for op in run.operations if op["kind"] == "unknown"]:
        return [unknown("answer", f"round {broken[0]['number'] + 1}: {broken[0]['text']}", **broken[0]["value"])]
    if not rounds:
        return [unknown("answer", "no request was answered, so nothing is known")]
    return [unknown("answer", f"{len(rounds)} of {ROUNDS} requests were answered")]


def _end(run: Run) -> list[Check]:
    """How the child ended, where that is a finding; what it left behind has a check of its own."""
    checks = process_check(replace(run, ended=replace(run.ended, leftovers=[])))
    return [check for check in checks if check.verdict != Verdict.PASS]


def _failures(ended: Ended) -> list[Check]:
    names = {"server": "the server did not start", "load": "the model did not load", "infer": "the request was refused"}
    checks = {"infer": "answer", "load": "model"}
    found = ((str(event["what"]), event["text"]) for event in all_of(ended.events, "failed"))
    return [failed(checks.get(what, what), f"{names[what]}: {text}{_detail(text, ended)}") for what, text in found]


def _detail(text: str, ended: Ended) -> str:
    """What Triton says only in its log, or protobuf only on standard error, of a model that it could not read."""
    if "failed to poll" not in text:
        return ""
    lines = [*ended.log, *ended.errors]
    polls = [line.partition("Poll failed for ")[2].rstrip('"') for line in lines if "Poll failed for " in line]
    parses = [line.partition("] ")[2] for line in lines if "libprotobuf ERROR" in line]
    return "".join(f"; {reason}" for reason in [*polls[:1], *parses[:1]])


def _server(server: Event) -> Check:
    states = f"live: {_word(server['live'])}, ready: {_word(server['ready'])}"
    make = passed if server["live"] and server["ready"] else failed
    return make("server", f"{server['name']} {server['version']}, {states}")


def _model(model: Event) -> Check:
    tensors = ", ".join(t["name"] for t in [*model["inputs"], *model["outputs"]])
    make = passed if model["ready"] else failed
    return make("model", f"{model['name']} (backend {model['backend']}) ready: {_word(model['ready'])}; {tensors}")


def _word(value: bool) -> str:
    return "yes" if value else "no"


def _answers(rounds: list[Event]) -> Check:
    problems = []
    for each in rounds:
        where = f"round {each['number'] + 1}"
        if each["late"]:
            problems.append(f"{where}: {each['late']}")
        elif each["errors"]:
            problems.append(f"{where}: the model answered with an error: {each['errors'][0]}")
        elif each["responses"] != 1 or each["finals"] != 1:
            problems.append(
                f"{where}: {each['responses']} responses, {each['finals']} of them final; one final response is due"
            )
        else:
            names = [tensor["name"] for tensor in each["tensors"]]
            problems += [f"{where}: the answer lacks {name}" for name in each["expected"] if name not in names]
    if problems:
        return failed("answer", problems[0], problems=problems)
    slowest = max(each["seconds"] for each in rounds)
    return passed("answer", f"{len(rounds)} requests, one final response each, slowest {slowest * 1000:.2f} ms")


def _values(rounds: list[Event], options: Mapping[str, Any]) -> Check:
    problems, compared = [], 0
    for each in rounds:
        for tensor in each["tensors"]:
            compared += tensor.get("count", 0)
            problem = _value_problem(tensor, options)
            if problem:
                problems.append(f"round {each['number'] + 1}, {tensor['name']}: {problem}")
    if problems:
        return failed("values", problems[0], problems=problems)
    if not compared:
        return skipped("values", "no output came back")
    return passed("values", f"{compared} values are the sums and differences of the inputs")


def _value_problem(tensor: Event, options: Mapping[str, Any]) -> str:
    if tensor.get("unwritten"):
        return f"the buffer on {tensor['reported']} was never written: it still holds the allocator's fill"
    if "unreadable" in tensor:
        return f"the bytes are no {tensor['datatype']} tensor of shape {tensor['shape']}: {tensor['unreadable']}"
    if "count" not in tensor:
        return ""
    if tensor["shape"] != tensor["expected_shape"]:
        return f"shape {tensor['shape']}, expected {tensor['expected_shape']}"
    if not tensor["wrong"]:
        return ""
    if tensor["zeros"] or tensor["all_zero"]:
        why = (
            f"the zeros given to everybody but policy {options['host_policy']} were used, or the data never arrived"
            if options["host_policy"]
            else "the data never arrived, or the zeros given to another policy were used"
        )
        return f"all {tensor['count']} values are zero: {why}"
    at = tensor["first_wrong"] or {}
    return (
        f"{tensor['wrong']} of {tensor['count']} values are wrong; the first at [{at.get('index')}]: "
        f"{at.get('got')} instead of {at.get('expected')}"
    )


def _places(rounds: list[Event], events: list[Event], options: Mapping[str, Any]) -> Check:
    given = {(a["tensor"], a["address"]): a for a in all_of(events, "allocation")}
    problems, compared = [], 0
    for each in rounds:
        for tensor in each["tensors"]:
            record = given.get((tensor["name"], tensor["address"]))
            where = f"round {each['number'] + 1}, {tensor['name']}"
            if record is None:
                problems.append(f"{where}: the response's buffer is none that the allocator gave")
                continue
            compared += 1
            if tensor["reported"] != record["actual"]:
                problems.append(
                    f"{where}: the response says {tensor['reported']}, the allocator gave {record['actual']}"
                )
            wanted = record["preferred"] if record["asked"] == "preferred" else record["asked"]
            if record["actual"] != wanted:
                problems.append(f"{where}: asked for {wanted}, the allocator gave {record['actual']}")
    if problems:
        return failed("placement", problems[0], problems=problems)
    if not compared:
        return skipped("placement", "no output came back")
    asked = options["output"]
    return passed("placement", f"{compared} outputs lie, and are reported, where the allocator put them ({asked})")


def _computed(rounds: list[Event], events: list[Event], options: Mapping[str, Any]) -> Check:
    """For models that say where they computed, as the test backend does."""
    said = {str(each["parameters"]["computed_on"]) for each in rounds if "computed_on" in each["parameters"]}
    if not said:
        return skipped("model device", "the model does not say where it computed")
    wanted = options["model_device"]
    if options["datatype"] == "bytes" and wanted and wanted != "cpu":
        return skipped("model device", "the test backend computes BYTES on the CPU, on a GPU instance too")
    if wanted and said != {wanted}:
        return failed("model device", f"the model computed on {', '.join(sorted(said))}, asked for {wanted}")
    asked_for = {a["preferred"] for a in all_of(events, "allocation")}
    strangers = sorted(asked_for - said)
    if strangers:
        return failed(
            "model device",
            f"the model computed on {', '.join(sorted(said))} and asked for output memory on {', '.join(strangers)}",
        )
    return passed("model device", f"the model computed on {', '.join(sorted(said))} and asked for output memory there")


def _policy(rounds: list[Event], options: Mapping[str, Any], ended: Ended) -> Check:
    policy = options["host_policy"]
    tensors = [tensor for each in rounds for tensor in each["tensors"] if "all_zero" in tensor]
    if not tensors:
        return skipped("host policy", "no output came back")
    if any(tensor["wrong"] for tensor in tensors):
        if _copy_errors(ended):
            return unknown("host policy", "a copy failed, so zeros do not tell which data the model read")
        if all(tensor["all_zero"] for tensor in tensors):
            text = (
                f"the real data was given under {policy} and zeros under the default: the model read the zeros"
                if policy
                else "the real data was given under the default and zeros under a policy nobody has: zeros came back"
            )
            return failed("host policy", text)
        return unknown("host policy", "the values are wrong, but not those of the other policy")
    if policy:
        return passed("host policy", f"the model read the data given under {policy}, not the default's zeros")
    return passed("host policy", "the model read the default's data, not the zeros of a policy that it does not have")


def _ledger(events: list[Event]) -> list[Check]:
    counts = last(events, "ledger")
    if counts is None:
        return []
    problems = [
        text
        for wrong, text in (
            (counts["live"], f"{counts['live']} buffers ({counts['live_bytes']} bytes) were never released"),
            (counts["double_releases"], f"{counts['double_releases']} buffers were released twice"),
            (counts["mismatched"], f"{counts['mismatched']} releases named another buffer, size or place"),
            (counts["free_failures"], f"{counts['free_failures']} buffers could not be freed"),
        )
        if wrong
    ]
    if problems:
        return [failed("allocations", "; ".join(problems), **counts)]
    if not counts["allocations"]:
        return [skipped("allocations", "nothing was allocated", **counts)]
    return [passed("allocations", f"{counts['allocations']} buffers given, each released once", **counts)]


def _left(events: list[Event], ended: Ended) -> list[Check]:
    problems = []
    calls, stop = last(events, "calls"), last(events, "stop")
    if stop is not None and stop["text"]:
        problems.append(stop["text"])
    if calls is not None and calls["open"]:
        problems.append(f"{calls['open']} request(s) never came back")
    if calls is not None and calls["strays"]:
        problems.append(f"{calls['strays']} response(s) came after their request was over")
    problems += [f"left behind: {entry}" for entry in ended.leftovers]
    if problems:
        return [failed("left over", problems[0], problems=problems)]
    if stop is None:
        return []
    what = "request, response, process or shared memory" if ended.looked else "request or response"
    return [passed("left over", f"no {what}; stopped in {stop['seconds']:.2f} s")]


def _copy_errors(ended: Ended) -> list[str]:
    return [line for line in [*ended.log, *ended.errors] if COPY_ERROR.search(line)]


def _log(ended: Ended) -> Check:
    lines = _copy_errors(ended)
    if lines:
        return failed("log", f"Triton logged a copy error: {lines[0].strip()}", lines=lines[:20])
    if not ended.log:
        return unknown("log", "Triton wrote no log")
    return passed("log", f"{len(ended.log)} lines, none about a failed copy")
