"""Two models, or two deployments of one, share a Redis while their processes are killed."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import anyio
import pytest
import pytest_asyncio

from glm4v.broker import Keys
from glm4v.checkpoint.tiny import write_tiny
from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import TOKENS, again, ask, draw
from tests.e2e.fleet import Fleet
from tests.e2e.journals import read_journal
from tests.e2e.reading import Reader, Reading
from tests.queues import left_behind

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
SERVICES = ("gateway", "vision_worker", "lm_worker")
NAMESPACE = "other"
KILLED_FOR_S = 12.0
CLIENTS = 4


@dataclass
class Side:
    """One of the two: its services, and what it answers when the other does not run."""

    suffix: str
    has_ids_of_other: bool
    keys: Keys = field(default_factory=Keys)
    undisturbed: dict[str, Reading] = field(default_factory=dict)
    readings: list[tuple[str, Reading]] = field(default_factory=list)

    @property
    def services(self) -> list[str]:
        return [name + self.suffix for name in SERVICES]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(
    checkpoint_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    other = tmp_path_factory.mktemp("other") / "model"
    write_tiny(other, seed=7)
    variants = {
        "model": {"GLM4V_MODEL": str(other)},
        "namespace": {"GLM4V_NAMESPACE": NAMESPACE},
    }
    async with Fleet(checkpoint_dir("micro-glm4v"), variants=variants) as fleet:
        yield fleet


@pytest.mark.parametrize("difference", ["model", "namespace"])
async def test_both_answer_as_if_alone_while_processes_of_both_are_killed(
    fleet: Fleet, difference: str
) -> None:
    image = draw(difference)  # both are asked about the same image
    questions = {
        "greedy": ask("why", max_tokens=2 * TOKENS),
        "sampled": ask("why", seed=7, max_tokens=2 * TOKENS),
        "image": ask("what", image),
        "sampled image": ask("what", image, seed=9),
    }
    keys = Keys(NAMESPACE) if difference == "namespace" else Keys()
    has_ids_of_other = difference == "namespace"
    sides = (
        Side("", has_ids_of_other),
        Side(f"-{difference}", has_ids_of_other, keys),
    )
    for side in sides:
        await fleet.only(*side.services)
        async with Reader([fleet.target(side.services[0])]) as reader:
            for name, question in questions.items():
                side.undisturbed[name] = await reader.read(again(question))
    answers = [[each.token_ids for each in side.undisturbed.values()] for side in sides]
    assert (answers[0] != answers[1]) == (difference == "model")

    await fleet.only(*sides[0].services, *sides[1].services)
    stopping = asyncio.Event()
    async with anyio.create_task_group() as group:
        for side in sides:
            for number in range(CLIENTS):
                group.start_soon(client, fleet, side, questions, number, stopping)
        await kill_at_random(fleet, [name for side in sides for name in side.services])
        stopping.set()
    for side in sides:
        assert len(side.readings) >= 2 * CLIENTS
        for name, reading in side.readings:
            await assert_as_alone(fleet, side, reading, side.undisturbed[name])
        await settled(fleet, side)


async def client(
    fleet: Fleet,
    side: Side,
    questions: dict[str, api.GenerateRequest],
    number: int,
    stopping: asyncio.Event,
) -> None:
    """Asks one question after the other. In two namespaces both sides use the same request ids."""
    rng, ids = Random(number), count()
    async with Reader([fleet.target(side.services[0])]) as reader:
        while not stopping.is_set():
            name = rng.choice(sorted(questions))
            reading = Reading(again(questions[name]))
            if side.has_ids_of_other:
                reading.request.request_id = f"{number}-{next(ids)}"
            side.readings.append((name, reading))
            await reader.read_on(reading)


async def kill_at_random(fleet: Fleet, names: list[str]) -> None:
    """SIGKILL one service after the other, and start it again; all run at the end."""
    rng = Random(1)
    until = time.monotonic() + KILLED_FOR_S
    while time.monotonic() < until:
        name = rng.choice(names)
        await fleet.kill(name)
        await fleet.start(name)
        await asyncio.sleep(rng.uniform(0, 0.3))


async def assert_as_alone(fleet: Fleet, side: Side, reading: Reading, undisturbed: Reading) -> None:
    """Each token once and one end, for the client and in the journal."""
    assert reading.terminal == ["finished"], reading.details
    assert (reading.duplicated, reading.missing) == (0, 0)
    assert (reading.token_ids, reading.text) == (undisturbed.token_ids, undisturbed.text)
    journal = await read_journal(fleet.connection, side.keys, reading.request_id)
    assert journal is not None
    assert (len(journal.ends), journal.duplicated, journal.missing) == (1, 0, 0)
    assert journal.token_ids == undisturbed.token_ids


async def settled(fleet: Fleet, side: Side) -> None:
    """Nothing is left once a killed worker's leases have lapsed."""
    deadline = time.monotonic() + 30
    while left := await left_behind(fleet.connection, side.keys):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)


async def test_a_rolling_update_to_other_weights_finishes_what_is_in_flight(fleet: Fleet) -> None:
    """The former gateway drains, and clients go on through one of the new model."""
    former, updated = ("gateway", "vision_worker", "slow_lm_worker"), Side("-model", False).services
    await fleet.only(*former)
    questions = [ask("why", seed=number, max_tokens=3 * TOKENS) for number in range(3)]
    questions.append(ask("what", draw("update"), max_tokens=3 * TOKENS))
    async with Reader([fleet.target("gateway")]) as reader:
        undisturbed = [await reader.read(again(question)) for question in questions]
    await fleet.start(*updated)
    readings = [Reading(again(question)) for question in questions]
    async with anyio.create_task_group() as group:
        for reading in readings:
            group.start_soon(read_through, fleet, ["gateway", updated[0]], reading)
        while min(len(reading.token_ids) for reading in readings) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        fleet.signal("gateway", signal.SIGTERM)
    side = Side("", has_ids_of_other=False)
    for reading, expected in zip(readings, undisturbed, strict=True):
        assert reading.interruptions > 0
        await assert_as_alone(fleet, side, reading, expected)
    for name in former[1:]:
        fleet.signal(name, signal.SIGTERM)
        assert await fleet.ended(name) == 0
    async with Reader([fleet.target(updated[0])]) as reader:
        after = await reader.read(again(questions[0]))
    assert after.terminal == ["finished"]
    assert after.token_ids != undisturbed[0].token_ids
    await settled(fleet, side)


async def read_through(fleet: Fleet, gateways: Sequence[str], reading: Reading) -> None:
    """Read to the end, through the first gateway for as long as it runs."""
    async with Reader([fleet.target(name) for name in gateways]) as reader:
        await reader.read_on(reading)
