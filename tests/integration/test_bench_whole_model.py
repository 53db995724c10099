"""`glm4v bench whole-model` with a small model: a whole system that answers once."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def test_one_question_is_answered_and_every_process_is_measured(
    checkpoint_dir: Callable[[str], Path],
) -> None:
    command = [sys.executable, "-m", "glm4v.cli", "bench", "whole-model"]
    options = ["--weight-dtype", "auto", "--tokens", "5"]
    done = subprocess.run(
        [*command, checkpoint_dir("micro-glm4v"), *options],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    held = dict(re.findall(r"^(\w+) held (\d+) MiB of its own", done.stdout, re.MULTILINE))
    assert held.keys() == {"redis", "gateway", "vision_worker", "lm_worker"}
    assert int(held["lm_worker"]) > int(held["redis"]) > 0
    for name in ("vision_worker", "lm_worker"):
        [seconds] = re.findall(rf"^{name} ready after (\S+) s$", done.stdout, re.MULTILINE)
        assert float(seconds) > 0
    parts = re.findall(r"(?:after|in) (\d+\.\d+) s$", done.stdout, re.MULTILINE)
    assert len(parts) == 2 + 3
    [tokens] = re.findall(r"^tokens: (.*)$", done.stdout, re.MULTILINE)
    assert len(tokens.split()) == 5
