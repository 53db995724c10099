"""A short run of `make chaos`."""

import json
import subprocess
import sys

import pytest

from tests.stories.fleet import ROOT

SECONDS = 95  # two minutes with what comes before and after


@pytest.mark.timeout(300)
def test_every_promise_holds_while_everything_is_broken() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--seed", "7"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    verdict = json.loads(run.stdout.splitlines()[-1])
    assert verdict["faults"] >= SECONDS / 4
    assert verdict["finished"] > verdict["cancelled"] > 0
    assert verdict["encodes_per_image_max"] == 1
