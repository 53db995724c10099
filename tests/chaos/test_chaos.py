"""Short runs of `make chaos`."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.fleet import ROOT


def chaos(seconds: int, *options: str) -> dict[str, Any]:
    """The figures of a run in which every promise held."""
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(seconds), *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    verdict: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    assert verdict["faults"] >= seconds / 4
    assert verdict["finished"] > verdict["cancelled"] > 0
    return verdict


@pytest.mark.timeout(300)
def test_every_promise_holds_while_everything_is_broken() -> None:
    verdict = chaos(70, "--seed", "7")
    assert verdict["encodes_per_image_max"] == 1


@pytest.mark.timeout(200)
def test_every_client_is_told_an_end_when_redis_forgets_everything() -> None:
    verdict = chaos(25, "--seed", "8", "--erase")
    assert verdict["erasures"] > 0
    assert verdict["erased"] > 0
