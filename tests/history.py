"""The release before, from the history of the repository."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The last commit whose processes have to work beside those of the checkout.
COMMIT = "856b5ae5a72d7401ba23a15d7a7d988b9b0b409c"


def has_history() -> bool:
    """Whether the checkout has that commit; a copy without its history has not."""
    if shutil.which("git") is None:
        return False
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    return found.returncode == 0


def archive() -> bytes:
    """Its files, as a tar archive."""
    found = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=True)
    return found.stdout
