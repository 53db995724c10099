"""What all processes say to Prometheus, read by its own checker."""

import subprocess

import pytest

from tests.e2e.asking import ask, draw
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader
from tests.needs import find_program

pytestmark = [pytest.mark.timeout(120), pytest.mark.needs_promtool]
PROCESSES = ("gateway", "vision_worker", "lm_worker")


@pytest.mark.asyncio(loop_scope="session")
async def test_promtool_finds_nothing_wrong(fleet: Fleet) -> None:
    await fleet.only(*PROCESSES)
    async with Reader(fleet.targets) as reader:
        await reader.read(ask("what", draw("measured")))
    for name in PROCESSES:
        text = await fleet.metrics(name)
        assert "glm4v_" in text
        found = check(text)
        assert (found.returncode, found.stdout + found.stderr) == (0, ""), name


def test_promtool_finds_what_is_wrong() -> None:
    wrong = "# HELP glm4v_steps_total Steps.\n# TYPE glm4v_steps_total gauge\nglm4v_steps_total 1\n"
    assert check(wrong).returncode != 0


def check(text: str) -> "subprocess.CompletedProcess[str]":
    """`promtool check metrics`: names, units, help texts and types as Prometheus advises."""
    program = find_program("promtool")
    assert program is not None  # or the tests were skipped
    return subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
