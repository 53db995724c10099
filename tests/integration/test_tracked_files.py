"""What git ignores is not in the repository."""

import subprocess

import pytest

from tests.history import ROOT

pytestmark = pytest.mark.needs_history


def test_no_ignored_file_was_committed() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == ""
