"""Runs the tests of the native library with it built for AddressSanitizer (with undefined behaviour and leaks) and for
ThreadSanitizer, against a real Triton.

Each sanitizer must first find a fault that is planted. What it reports counts when our code is in one of the stacks
that did the wrong thing; the rest, Triton's and Python's own, is kept in build/sanitize and counted. Exit code 0 when
nothing of ours was found and all tests passed, 1 when not, 4 when the compiler has no sanitizers.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "tritoncapi" / "native"
TESTS = (
    *("allocator", "async", "awaiting", "builtins", "cores", "default_allocator", "histogram", "infer_many"),
    *("once", "put_aside", "raw_inference", "request", "request_content", "response", "traffic"),
)
# A request that Triton never gives back is left to it, with all that its callbacks may touch: not freed is right there.
LEFT_ALIVE = ("tests/tritoncapi/test_traffic.py::test_a_model_that_never_answers",)
FLAGS = ("-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-fPIC", "-shared", "-pthread")
OURS = "tritoncapi/native/"

# A histogram cleared in memory that is too small for it; a series that two threads add to.
OVERFLOW = """
import ctypes, os
native = ctypes.CDLL(os.environ["TRITONCAPI_NATIVE"])
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
native.tc_histogram_clear(ctypes.c_void_p(libc.malloc(64)))
"""
LOST = """
import ctypes, os
native = ctypes.CDLL(os.environ["TRITONCAPI_NATIVE"])
native.tc_inbox_new.restype = ctypes.c_void_p
for _ in range(3):
    native.tc_inbox_new(ctypes.byref(ctypes.c_int()))
"""
RACE = """
import ctypes, os, threading
native = ctypes.CDLL(os.environ["TRITONCAPI_NATIVE"])
native.tc_series_size.restype = ctypes.c_size_t
series = ctypes.create_string_buffer(native.tc_series_size())
native.tc_series_begin(series, ctypes.c_int64(0))
start = threading.Barrier(2)
def add():
    start.wait()
    for _ in range(1000):
        native.tc_series_add(series, ctypes.c_int64(0), ctypes.c_uint64(1), 0)
threads = [threading.Thread(target=add) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@dataclass(frozen=True)
class Sanitizer:
    """One of them: compiler's name, library to preload, its options, and programs with faults it must see."""

    name: str
    flag: str
    runtime: str
    variable: str
    options: str
    planted: tuple[str, ...]


SANITIZERS = (
    Sanitizer(
        "address",
        "-fsanitize=address,undefined",
        "libasan.so",
        "ASAN_OPTIONS",
        "detect_leaks=1:halt_on_error=0:exitcode=0:handle_segv=0:handle_abort=0",
        (OVERFLOW, LOST),
    ),
    Sanitizer("thread", "-fsanitize=thread", "libtsan.so", "TSAN_OPTIONS", "exitcode=0:handle_segv=0", (RACE,)),
)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="address, thread (default: both)")
    names = parser.parse_args().names or [sanitizer.name for sanitizer in SANITIZERS]
    unknown = set(names) - {sanitizer.name for sanitizer in SANITIZERS}
    if unknown:
        say(f"no sanitizer named {', '.join(sorted(unknown))}: there are address and thread")
        return 2
    codes = [run(sanitizer) for sanitizer in SANITIZERS if sanitizer.name in names]
    return max(codes, key=(0, 4, 1).index)


def run(sanitizer: Sanitizer) -> int:
    """Builds, proves and tests; returns the exit code."""
    folder = ROOT / "build" / "sanitize" / sanitizer.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        environment = prepare(sanitizer, folder)
    except OSError as error:
        say(f"{sanitizer.name}: {error}")
        return 4
    for number, code in enumerate(sanitizer.planted):
        planted = folder / f"planted{number}"
        subprocess.run([sys.executable, "-c", code], env=logging_to(environment, sanitizer, planted), check=False)
        if not any(is_ours(report) for report in reports(planted)):
            say(f"{sanitizer.name}: a planted fault was not seen, so nothing would be")
            return 1
    say(f"{sanitizer.name}: sees the {len(sanitizer.planted)} planted faults; running the tests")
    log = folder / "tests"
    tests = [f"--deselect={test}" for test in LEFT_ALIVE if "detect_leaks=1" in sanitizer.options]
    tests += [f"tests/tritoncapi/test_{name}.py" for name in TESTS]
    passed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=900", *tests],
        env=logging_to(environment, sanitizer, log),
        cwd=ROOT,
        check=False,
    )
    found = list(reports(log))
    ours = [report for report in found if is_ours(report)]
    for report in ours:
        sys.stdout.write(report + "\n")
    say(f"{sanitizer.name}: {len(ours)} report(s) of ours; {len(found) - len(ours)} of others, in {folder}")
    return 1 if ours or passed.returncode else 0


def prepare(sanitizer: Sanitizer, folder: Path) -> dict[str, str]:
    """Builds the library; returns the environment to use it in. Raises OSError without compiler or sanitizer."""
    compiler = os.environ.get("CC", "cc")
    library = folder / "libtritoncapi_native.so"
    sources = sorted(str(path.relative_to(ROOT)) for path in NATIVE.glob("*.c"))
    command = [compiler, *FLAGS, sanitizer.flag, "-o", str(library), *sources, "-ldl", "-lm"]
    try:
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        asked = subprocess.run([compiler, f"-print-file-name={sanitizer.runtime}"], capture_output=True, check=True)
    except FileNotFoundError:
        raise OSError(f"no compiler {compiler}: install gcc, or name one in CC") from None
    runtime = os.fsdecode(asked.stdout).strip()
    if built.returncode or not os.path.isabs(runtime):
        raise OSError(f"{compiler} has no {sanitizer.flag}: {built.stderr.strip() or 'no ' + sanitizer.runtime}")
    return {**os.environ, "LD_PRELOAD": runtime, "TRITONCAPI_NATIVE": str(library)}


def logging_to(environment: dict[str, str], sanitizer: Sanitizer, log: Path) -> dict[str, str]:
    """The environment in which reports are written to ``log``.PID."""
    undefined = {"UBSAN_OPTIONS": f"print_stacktrace=1:log_path={log}"}
    return {**environment, **undefined, sanitizer.variable: f"{sanitizer.options}:log_path={log}"}


def reports(log: Path) -> Iterator[str]:
    """One text for each thing found."""
    for path in sorted(log.parent.glob(f"{log.name}.*")):
        text = path.read_text(errors="replace")
        # A ThreadSanitizer warning stands between lines of =; leaks are paragraphs; the rest begins with ==PID==.
        for block in re.split(
            r"^={10,}$|^(?==+\d+=+ *ERROR)|\n\n(?=(?:Direct|Indirect) leak)", text, flags=re.MULTILINE
        ):
            if re.search(r"ERROR|WARNING|leak of|runtime error", block):
                yield block.strip()


def is_ours(report: str) -> bool:
    """Whether our code is in a stack that did it; where memory or a thread came from does not count."""
    did = re.split(r"^ *(?:Location is|Mutex|Thread T\d+|As if|allocated by)", report, flags=re.MULTILINE)[0]
    return OURS in did


def say(text: str) -> None:
    """A line of progress."""
    sys.stdout.write(f"sanitize: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
