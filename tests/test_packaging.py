"""The files around the code: Makefile, metadata, scripts, the wheel, and which package may import which."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"tritoncapi", "harness", "scenarios", "model_repos", "tritoncapi_pytest"}
FORBIDDEN = {
    "tritoncapi": {"harness", "scenarios", "model_repos", "tritoncapi_pytest", "benchmarks"},
    "harness": {"tritoncapi", "scenarios", "model_repos", "tritoncapi_pytest", "benchmarks"},
    "model_repos": {"harness", "scenarios", "tritoncapi_pytest", "benchmarks"},
    "scenarios": {"tritoncapi_pytest", "benchmarks"},
    "tritoncapi_pytest": {"benchmarks"},
}
# Models run in Triton's stub, which has none of our packages.
MODELS = "model_repos/**/model.py"


def imported(source: str) -> Iterator[str]:
    """Top-level names of what a module imports absolutely, in functions too, by name or through import_module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value.partition(".")[0]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_imports_are_found_in_every_form() -> None:
    source = "import a.b\ndef f():\n    from c.d import e\n    importlib.import_module('g.h')\nfrom . import i\n"
    assert set(imported(source)) == {"a", "c", "g"}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): names
        for file in files
        if (names := FORBIDDEN[package].intersection(imported(file.read_text())))
    }
    assert wrong == {}


def test_models_import_nothing_of_ours() -> None:
    files = sorted(ROOT.glob(MODELS))
    assert files
    assert {file.parts[-3]: set(imported(file.read_text())) & PACKAGES for file in files} == {
        file.parts[-3]: set() for file in files
    }


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_make_help_lists_every_target(arguments: list[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert targets >= {"help", "run", "test", "check", "bench", "bundle", "wheel", "clean"}
    phony = {name for line in re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE) for name in line.split()}
    assert phony == targets
    done = run("make", "--no-print-directory", *arguments)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"^  make (\S+) +\S", done.stdout, re.MULTILINE)) == targets


def test_metadata() -> None:
    try:
        package = importlib.metadata.distribution("tritoncapi-harness")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tritoncapi-harness is not installed")
    scripts = {point.name: point.value for point in package.entry_points.select(group="console_scripts")}
    assert scripts["tritoncapi-harness"] == "harness.cli:main"
    assert callable(package.entry_points.select(name="tritoncapi-harness")["tritoncapi-harness"].load())
    plugins = {point.name: point.value for point in package.entry_points.select(group="pytest11")}
    assert plugins == {"tritoncapi": "tritoncapi_pytest.plugin"}
    assert package.metadata["Requires-Python"] == ">=3.10"
    assert {"server", "pytest", "dev"} <= set(package.metadata.get_all("Provides-Extra") or ())
    declared = re.search(r"^wheel\.packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert set(re.findall(r'"(\w+)"', declared[1])) == PACKAGES


@pytest.mark.parametrize("script", sorted((ROOT / "packaging").glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse(script: Path) -> None:
    done = run("sh", "-n", script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("the .ci folder is not part of this source tree")
    assert run("bash", "-n", script).returncode == 0
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1] == "make test"


def test_install_refuses_outside_a_bundle() -> None:
    done = run("sh", ROOT / "packaging" / "install.sh")
    assert done.returncode == 2
    assert "is not an unpacked bundle" in done.stderr


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"arch": "vax"}, [], "this bundle is for vax"),
        ({"python_version": "3.1"}, ["--python", "python3"], "this bundle is for Python 3.1"),
        ({"python_version": "3.1"}, [], "no Python 3.1 on PATH"),
        ({}, ["--python", "no-such-python"], "no-such-python: no such program"),
        ({}, ["--prefix", "/tmp/with space"], "give another --prefix"),
        ({}, ["--prefix"], "--prefix needs a value"),
        ({}, ["--colour"], "unknown argument: --colour"),
    ],
)
def test_install_says_what_is_wrong(
    tmp_path: Path, settings: dict[str, str], arguments: list[str], message: str
) -> None:
    machine = run("uname", "-m").stdout.strip()
    defaults = {"version": "0", "python_version": "3.0", "arch": machine, "glibc": "2.1", "installed_kib": "1"}
    conf = "".join(f"{key}={value}\n" for key, value in (defaults | settings).items())
    (tmp_path / "bundle.conf").write_text(conf)
    script = shutil.copy(ROOT / "packaging" / "install.sh", tmp_path)
    prefix = [] if "--prefix" in arguments else ["--prefix", str(tmp_path / "prefix")]
    done = run("sh", script, *prefix, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "prefix").exists()


def test_wheel_is_complete() -> None:
    wheels = sorted((ROOT / "dist").glob("tritoncapi_harness-*.whl"))
    if not wheels:
        pytest.skip("no wheel in dist/: make wheel builds one")
    newest = max(path.stat().st_mtime for package in PACKAGES for path in (ROOT / package).rglob("*.[cp]*"))
    if min(wheel.stat().st_mtime for wheel in wheels) < newest:
        pytest.skip("the wheel in dist/ is older than its sources: make wheel builds one")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            assert archive.testzip() is None
            points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
        assert "tritoncapi-harness = harness.cli:main" in points.replace("=", " = ").replace("  ", " ")
        assert names >= {f"{package}/__init__.py" for package in PACKAGES}
        assert {"tritoncapi/native/libtritoncapi_native.so"} <= names
        assert any(re.fullmatch(r"model_repos/.*\.so", name) for name in names)
        assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
