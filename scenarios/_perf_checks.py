"""perf's checks: pure functions of the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.journal import all_of, last
from harness.scenario import Run
from harness.verdict import Check, failed, passed, skipped, unknown

from ._perf_plan import lasts, steps

BUSY = 0.1  # of the machine, used by others
BUDGETS = {"heap_in_use": 1.0, "descriptors": 1e-4, "threads": 1e-4}  # bytes, or counts, a request
Step = Mapping[str, Any]


def judge(run: Run) -> list[Check]:
    """All checks. Without a single step what else there is to say is enough."""
    found = all_of(run.ended.events, "step")
    checks = [*trouble(run), *complete(run, found)]
    if found:
        checks += [errors(run, found), counts(run, found), values(run, found), *stability(run, found), *notes(found)]
        checks += [*growth(run), *regression(run, found)]
    return [*checks, *answers(run), *stops(run)]


def name_of(step: Step) -> str:
    """What a step is called."""
    return f"{step['key']}" + (f" (side {step['side']}, round {step['round'] + 1})" if step.get("paired") else "")


def trouble(run: Run) -> Iterator[Check]:
    """What Triton refused, and what died."""
    for event in all_of(run.ended.events, "failed"):
        yield failed(event["what"], event["text"])
    for event in all_of(run.ended.events, "died"):
        if event.get("what") == "client":  # nothing is known of the server then
            yield unknown("client", event["text"], log=event.get("log", []))
        else:
            yield failed("server", event["text"], signal=event.get("signal", ""), log=event.get("log", []))


def answers(run: Run) -> Iterator[Check]:
    """Whether requests were answered that had been answered before."""
    for event in all_of(run.ended.events, "strays"):
        if event["count"]:
            yield failed("answers", f"{event['count']} callbacks came for requests that were over: answered twice")


def stops(run: Run) -> Iterator[Check]:
    """What did not stop as it should; last, since something else is mostly the reason."""
    for event in all_of(run.ended.events, "stop"):
        if event["text"]:
            yield failed("stop", event["text"])


def complete(run: Run, found: Sequence[Step]) -> list[Check]:
    """Whether every step was made, and something was measured in each."""
    due = len(steps(run.options))
    empty = [step for step in found if not step["requests"]]
    if len(found) < due:
        return [unknown("steps", f"only {len(found)} of {due} steps were measured")]
    if empty:
        return [unknown("steps", f"{len(empty)} of {due} measured nothing; first: {name_of(empty[0])}")]
    requests = sum(step["requests"] for step in found)
    took = sum(step["elapsed"] for step in found)
    return [passed("steps", f"{due} of {due} measured: {requests} requests in {took:.1f} s")]


def errors(run: Run, found: Sequence[Step]) -> Check:
    """Whether no more requests failed than may, those that were asked for apart; none may get lost."""
    from ._perf_measure import tolerated  # noqa: PLC0415

    lost = [step for step in found if step["lost"]]
    if lost:
        return failed("errors", f"{name_of(lost[0])}: {lost[0]['lost']} requests never came back")
    allowed, harmless = run.options["max_error_rate"], tolerated(run.options)
    asked_for, total = 0, 0
    for step in found:
        surplus = step["errors"].get("CANCELLED", 0) - step["cancels"]
        if "CANCELLED" in harmless and surplus > 0:
            return failed("errors", f"{name_of(step)}: {surplus} requests more were cancelled than should be")
        bad = {code: count for code, count in step["errors"].items() if code not in harmless}
        asked_for += sum(step["errors"].values()) - sum(bad.values())
        count = sum(bad.values())
        total += count
        if count and count > allowed * step["requests"]:
            code = max(bad, key=lambda code: bad[code])
            text = f"{name_of(step)}: {count} of {step['requests']} requests failed ({_codes(bad)})"
            return failed("errors", f"{text}, allowed {allowed:.3%}; {code}: {step['messages'].get(code, '')}", **bad)
    text = f"{total} errors, allowed {allowed:.3%}" if total else "no request failed"
    return passed("errors", text + (f"; {asked_for} were cancelled or timed out, as asked for" if asked_for else ""))


def _codes(bad: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in sorted(bad.items(), key=lambda item: -item[1]))


def counts(run: Run, found: Sequence[Step]) -> Check:
    """Whether histogram, series, client and Triton's own statistics count the same requests."""
    loose = run.options["cancel_rate"] or run.options["request_timeout"]
    lenient = 0
    for step in found:
        good = step["requests"] - sum(step["errors"].values())
        in_buckets = sum(count for _, count in step["histogram_ns"])
        in_series = sum(row[1] for row in step["series"])
        if in_buckets != good:
            return failed("counts", f"{name_of(step)}: {good} requests succeeded, the histogram holds {in_buckets}")
        if in_series != step["requests"]:
            return failed("counts", f"{name_of(step)}: {step['requests']} requests ended, the series has {in_series}")
        for model in step["models"]:
            theirs = step["statistics"][model["model"]]
            succeeded = model["requests"] - model["errors"]
            # Over HTTP and gRPC an answer may be dropped on its way, and a request before it comes to the model.
            remote = step["protocol"] != "c-api"
            # The Python backend counts a response that is an error as a success.
            more = theirs["success"] - succeeded
            lenient += max(0, more) if more <= model["errors"] else 0
            if more < 0 or (more > model["errors"] and not (remote and loose)):
                text = f"{name_of(step)}: {succeeded} requests of {model['model']} succeeded, Triton counts "
                return failed("counts", text + str(theirs["success"]))
            if not remote and not loose and theirs["success"] + theirs["fail"] != model["submitted"]:
                text = f"{name_of(step)}: Triton took {model['submitted']} requests of {model['model']} and counts "
                return failed("counts", text + f"{theirs['success']} successes and {theirs['fail']} failures")
    total = sum(count for step in found for _, count in step["histogram_ns"])
    if not total:
        return unknown("counts", "no request succeeded, so there is nothing to count")
    text = f"histograms, clients and Triton's statistics agree on {total} successful requests"
    return passed("counts", text + (f"; {lenient} error responses Triton counts as successes" if lenient else ""))


def values(run: Run, found: Sequence[Step]) -> Check:
    """Whether the answers that were looked at were right."""
    from ._perf_models import validation  # noqa: PLC0415

    if not validation(run.options):
        return skipped("values", "not checked: --validate holds answers to the same inputs against each other")
    looked = sum(step["validated"] for step in found)
    wrong = [step for step in found if step["wrong"]]
    if wrong:
        text = f"{name_of(wrong[0])}: {wrong[0]['wrong']} of {wrong[0]['validated']} answers are wrong; "
        return failed("values", text + "; ".join(wrong[0]["wrong_texts"][:1]), texts=wrong[0]["wrong_texts"])
    if not looked:
        return unknown("values", "no answer was looked at")
    kind = "the sum and the difference" if validation(run.options) == "add_sub" else "the same for the same inputs"
    return passed("values", f"{looked} answers looked at, all {kind}")


def stability(run: Run, found: Sequence[Step]) -> Iterator[Check]:
    """Whether the last three windows agreed; said, and unknown only if that was asked for."""
    if run.options["two_sides"]:
        return
    shaky = [step for step in found if step["stable"] is False]
    short = [step for step in found if step["stable"] is None]
    within = f"{run.options['stability']:.0%}"
    verdict = unknown if run.options["require_stable"] else skipped
    if shaky:
        names = ", ".join(name_of(step) for step in shaky[:4])
        yield verdict("stability", f"unstable, the last three windows differ by more than {within}: {names}")
    if short:
        names = ", ".join(name_of(step) for step in short[:4])
        yield verdict("stability", f"fewer than three windows, so not judged: {names}")
    if not shaky and not short:
        yield passed("stability", f"the last three windows of each step agree within {within}")


def notes(found: Sequence[Step]) -> Iterator[Check]:
    """What the figures do not say by themselves."""
    bound = [step for step in found if step["client_bound"]]
    if bound:
        names = ", ".join(dict.fromkeys(step["key"] for step in bound))
        yield skipped("client", f"client-bound, the server could do more: {names} (more client processes: --threads)")
    busy = max(found, key=lambda step: step["other_cpu"] / step["cpus"])
    if busy["other_cpu"] > BUSY * busy["cpus"]:
        text = f"other processes used up to {busy['other_cpu']:.1f} of {busy['cpus']} CPUs meanwhile"
        yield skipped("machine", f"{text}: figures of a busy machine")
    late = [step for step in found if step["unsent"]]
    if late:
        total = sum(step["unsent"] for step in late)
        yield skipped("rate", f"{total} due requests were never sent, so their latencies are missing: {late[0]['key']}")
    passed_over = sum(step["skipped"] for step in found)
    if passed_over:
        yield skipped("samples", f"{passed_over} answers picked for a look were let go, since too many waited")


def growth(run: Run) -> Iterator[Check]:
    """Whether memory, descriptors or threads grow with the requests of one long step."""
    if not lasts(run.options):
        return
    from harness.leaks import growth_check  # noqa: PLC0415 - scipy takes its time

    samples = [sample for sample in run.samples if sample.get("operations")]
    for figure, budget in BUDGETS.items():
        yield growth_check(samples, figure, budget, "request")


def regression(run: Run, found: Sequence[Step]) -> list[Check]:
    """The verdict against a baseline, or of side B against side A."""
    options = run.options
    if not options["two_sides"] and not options["baseline"]:
        return []
    from . import _perf_baseline  # noqa: PLC0415 - NumPy

    if options["two_sides"]:
        return _perf_baseline.sides(options, found)
    return _perf_baseline.against(options, found, all_of(run.ended.events, "model"), last(run.ended.events, "library"))
