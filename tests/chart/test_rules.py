"""The alerts, tried by Prometheus' tool: each is raised by what it is for, by nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.needs import find_program

pytestmark = pytest.mark.needs_promtool
FOLDER = Path(__file__).parent
RULES = FOLDER.parents[1] / "deploy" / "helm" / "glm4v" / "files" / "rules.yaml"


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    program = find_program("promtool")
    assert program is not None  # or the tests were skipped
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_the_rules_are_valid() -> None:
    found = promtool("check", "rules", RULES)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "5 rules found" in found.stdout


def test_each_alert_is_raised_by_what_it_is_for(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    shutil.copy(FOLDER / "rules_test.yaml", tmp_path)
    found = promtool("test", "rules", tmp_path / "rules_test.yaml")
    assert found.returncode == 0, found.stdout + found.stderr
