"""multiserver's checks: what the history and the samples say."""

from __future__ import annotations

from typing import Any

from harness.scenario import Run
from harness.verdict import Check, failed, passed, skipped, unknown

# What a life cycle looks at, and the sentence when nothing was wrong with it.
_CLEAN = {
    "health": "every server was live and ready, every loaded model ready",
    "values": "every answer is right, and its own",
    "placement": "every output lies where it was asked for, every buffer came back once",
    "versions": "the same model name answered in each server's own version",
    "isolation": "no server saw, served or loaded another's model; a model that failed took nothing with it",
    "statistics": "each server's statistics, and the metrics of its own model, count its own requests",
    "unload": "all models were unloaded in time",
    "stop": "every server stopped in time",
}
_NEEDS_ANSWERS = ("values", "placement", "versions", "statistics")
# Growth a life cycle that is still taken for none: bytes, and a count far below one.
_KIB = 1024
BUDGETS = {
    "heap_in_use": 16 * _KIB,
    "descriptors": 0.02,
    "threads": 0.02,
    "children": 0.02,
    "shm_entries": 0.02,
    "shm_bytes": 16 * _KIB,
}
GPU_BUDGETS = {"gpu_process_bytes": 64 * _KIB}
FEWEST_LOOPS = 10
GPU_TOLERANCE = 2 << 20  # bytes: the driver's own granule


def figures(run: Run) -> dict[str, Any]:
    """Counts, times, and how many servers were alive at once."""
    operations = [op for op in run.operations if op["kind"] != "unknown"]
    spans = [(op["value"]["alive"][0], op["value"]["alive"][-1]) for op in operations if op["value"].get("alive")]
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    alive = peak = 0
    area = 0.0
    before = edges[0][0] if edges else 0
    for time_ns, step in edges:
        area += alive * (time_ns - before)
        alive, before = alive + step, time_ns
        peak = max(peak, alive)
    begin = min((op["start_ns"] for op in operations), default=0)
    end = max((op["time_ns"] for op in operations), default=0)
    return {
        "cycles": len(operations),
        "requests": sum(op["value"].get("requests", 0) for op in operations),
        "seconds": max((end - begin) / 1e9, 1e-9),
        "peak": peak,
        "mean": area / (edges[-1][0] - edges[0][0]) if len(edges) > 1 else 0.0,
    }


def life_cycles(run: Run) -> list[Check]:
    """How many life cycles went well."""
    operations = run.operations
    if not operations:
        return [unknown("life cycles", "not one life cycle was completed")]
    bad = [op for op in operations if op["kind"] == "fail"]
    lost = [op for op in operations if op["kind"] == "unknown"]
    due = run.options["threads"] * run.options["loops"] if run.options["duration"] is None else len(operations)
    if bad:
        first = bad[0]
        what, text = first["value"]["problems"][0]
        where = f"thread {first['worker']}, loop {first['number']}"
        return [failed("life cycles", f"{len(bad)} of {len(operations)} failed; {where}: {what}: {text}")]
    if lost:
        text = f"{len(lost)} of {len(operations)} could not be judged: {lost[0]['text']}"
        return [unknown("life cycles", text, first=lost[0])]
    if len(operations) < due:
        return [unknown("life cycles", f"{len(operations)} of {due} were completed, none failed")]
    return [passed("life cycles", f"{len(operations)} of {due}, none failed")]


def concurrency(run: Run) -> list[Check]:
    """Whether the servers were alive at once."""
    threads, found = run.options["threads"], figures(run)
    if not found["cycles"]:
        return []
    text = f"{found['peak']} servers were alive at once on {threads} threads, {found['mean']:.1f} in the mean"
    if found["peak"] < threads:
        return [failed("concurrency", f"only {text}", **found)]
    return [passed("concurrency", text, **found)]


def problems(run: Run) -> list[Check]:
    """One check for each thing that a life cycle looks at."""
    operations = [op for op in run.operations if op["kind"] != "unknown"]
    if not operations:
        return []
    checks = []
    for what, clean in _CLEAN.items():
        if what == "versions" and run.options["repositories"]:
            checks.append(skipped(what, "repositories of your own: they need not have the model ab"))
            continue
        found = [
            (op, text) for op in operations for which, text in op["value"].get("problems", ()) if which == what
        ]
        if not found and what in _NEEDS_ANSWERS and not any(op["value"].get("requests") for op in operations):
            checks.append(unknown(what, "no request was answered, so nothing is known"))
            continue
        if not found:
            checks.append(passed(what, clean))
            continue
        op, text = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        checks.append(failed(what, f"thread {op['worker']}, loop {op['number']}: {text}{more}", count=len(found)))
    return checks


def containment(run: Run) -> list[Check]:
    """Whether the fault of one thread stayed its own: what the others' servers did beside it and after it."""
    thread = run.options["fault_thread"]
    if thread is None or run.ended.how != "ended":
        return []
    name = "containment"
    first = next((op for op in run.operations if op["worker"] == thread and op["kind"] == "fail"), None)
    if first is None:
        return [unknown(name, f"the fault {run.options['fault']} of thread {thread} never showed")]
    others = [op for op in run.operations if op["worker"] != thread]
    hit = [op for op in others if op["kind"] != "ok"]
    after = [op for op in others if op["time_ns"] > first["start_ns"]]
    if hit:
        text = f"the fault of thread {thread} took {len(hit)} life cycles of other threads with it"
        return [failed(name, f"{text}; first of thread {hit[0]['worker']}, loop {hit[0]['number']}")]
    if not after:
        return [unknown(name, "no other thread's life cycle ended after the fault")]
    return [passed(name, f"thread {thread} failed alone: {len(after)} life cycles of others ended well after it began")]


def leaks(run: Run) -> list[Check]:
    """What grew from one round to the next, measured while no server was alive."""
    from harness.leaks import leak_checks, level_check  # noqa: PLC0415 - scipy takes its time

    if not run.options["probes"]:
        return [skipped("leaks", "--no-probes")]
    if run.options["duration"] is None and run.options["loops"] < FEWEST_LOOPS:
        return [skipped("leaks", f"fewer than {FEWEST_LOOPS} loops are too few to judge growth by")]
    settled = [sample for sample in run.samples if sample.get("label") == "settled"]
    checks = list(leak_checks(settled, BUDGETS if run.options["memory"] == "system" else BUDGETS | GPU_BUDGETS))
    if run.options["memory"] != "system" and len(settled) > 1:
        # The first round makes the contexts, which stay as long as the process does.
        first, last = settled[1], settled[-1]
        figures = sorted({key for sample in (first, last) for key in sample if key.startswith("gpu")})
        checks += [level_check(name, first.get(name), last.get(name), GPU_TOLERANCE) for name in figures]
    return checks
