"""The child of ``isolation``: pytest with one test, whose reports go into the journal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.journal import Journal

OUTPUT = "pytest.txt"
CHILD: pytest.StashKey[bool] = pytest.StashKey()
"""Set where a test is not to be isolated again."""
_SAME_LOADED = ("harness", "tritoncapi_pytest")


def run(parameters: dict[str, Any], journal: Journal, folder: Path) -> bool:
    """Entry point. False: at the end of the interpreter a Triton that would not stop could crash or hang."""
    output = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(output, 1)  # so that standard error has only what was not pytest's
    os.close(output)
    os.chdir(parameters["cwd"])
    sys.path[:] = parameters["path"]
    # pytest would warn that it cannot rewrite the assertions of plugins that are already imported. It need not.
    for name, module in list(sys.modules.items()):
        if name in _SAME_LOADED or name.startswith("_editable_"):
            module.__doc__ = f"{module.__doc__ or ''} PYTEST_DONT_REWRITE"
    journal.phase("its collection")
    config = pytest.Config.fromdictargs(parameters["options"], [parameters["argument"]])
    config.stash[CHILD] = True
    config.pluginmanager.register(_Recorder(config, journal), "triton-isolated")
    config.hook.pytest_cmdline_main(config=config)
    sys.stdout.flush()
    sys.stderr.flush()
    return False


class _Recorder:
    """Writes down what pytest does, and every report."""

    def __init__(self, config: pytest.Config, journal: Journal) -> None:
        self._config = config
        self._journal = journal

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._journal.phase("the test's set-up")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self._journal.phase("the test itself")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self._journal.phase("the test's teardown")

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._journal.write("report", data=data)
