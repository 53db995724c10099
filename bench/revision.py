"""The commit that is measured."""

import subprocess
from pathlib import Path

import glm4v


def revision() -> str:
    """The commit of this checkout; empty where it is none."""
    root = Path(glm4v.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", root, "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, or another owner's checkout
        return ""
    return done.stdout.strip()
