"""The command line: help without imports, one clear line for bad input, the right exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from harness import cli
from harness.errors import LacksError, UsageError


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys\nfrom harness.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numpy', 'rich', 'tritoncapi', 'scenarios', 'cuda', 'psutil'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_every_command(name: str) -> None:
    done = CliRunner().invoke(cli.main, [name, "--help"])
    assert done.exit_code == 0
    assert "--json" in done.output
    writes_reports = bool(cli.COMMANDS[name].needs) or name == "report"
    assert ("--html" in done.output and "--junit" in done.output) == writes_reports
    assert ("--triton" in done.output) == (name not in ("recheck", "list", "report", "diff"))  # they need no Triton


def test_unknown_command_and_option() -> None:
    for words in (["nope"], ["memalloc", "--nope"], ["memalloc", "-x"]):
        done = CliRunner().invoke(cli.main, words)
        assert done.exit_code == 2
        assert "Traceback" not in done.output


@pytest.mark.parametrize(("error", "code"), [(UsageError("what"), 2), (LacksError("what"), 4)])
def test_errors_become_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: broken)
    done = CliRunner().invoke(cli.main, ["memalloc"])
    assert done.exit_code == code
    assert len(done.output.splitlines()) == 1
    assert "what" in done.output


def test_version() -> None:
    done = CliRunner().invoke(cli.main, ["--version"])
    assert done.exit_code == 0
    assert "tritoncapi-harness" in done.output or "version" in done.output


def test_console_script_is_installed() -> None:
    script = Path(sys.executable).parent / "tritoncapi-harness"
    done = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True)
    assert "memalloc" in done.stdout


def test_list_has_every_scenario_and_its_needs(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.main, ["list"])
    assert done.exit_code == 0
    for name in ("memalloc", "matrix", "multiserver", "perf"):
        assert name in done.output
    assert done.output.count("needs a Triton") == 4
    assert "recheck" not in done.output
    CliRunner().invoke(cli.main, ["list", "--json", str(tmp_path / "list.json")])
    facts = json.loads((tmp_path / "list.json").read_text())
    assert [row["name"] for row in facts["scenarios"]] == ["memalloc", "matrix", "multiserver", "perf"]
    assert facts["exit_code"] == 0
    assert CliRunner().invoke(cli.main, ["list", "--json", "/nowhere/list.json"]).exit_code == 2


def test_ctrl_c_leaves_nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def slow() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: slow)
    done = CliRunner().invoke(cli.main, ["memalloc"])
    assert done.exit_code == 3
    assert done.output == "interrupted\n"
