"""All attacks at once, each smaller: who is honest is answered, and memory stays."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.e2e.fleet import Fleet
from tests.hostile import attacks
from tests.hostile.attacks import ATTACKS, Attack, Statuses
from tests.hostile.run import measure, resident_mb
from tests.proxies import free_port

SMALLER: dict[str, Attack] = {
    "a busy core, no attack": partial(attacks.busy_core, hold_s=0.5),
    "no message": partial(attacks.silent_streams, count=1000, hold_s=2),
    "slow messages": partial(attacks.slow_messages, connections=2, count=20, hold_s=2),
    "large messages": partial(attacks.large_messages, connections=2, count=12, megabytes=26),
    "empty messages": partial(attacks.empty_messages, streams=100, hold_s=2),
    "resets": partial(attacks.reset_streams, count=3000),
    "idle connections": partial(attacks.idle_connections, count=300, hold_s=2),
    "many requests": partial(attacks.many_requests, connections=2, count=100),
    "long answers": partial(attacks.long_answers, connections=1, count=100),
}
# Of the gateway, above what it holds when idle: there is room for 128 MB of messages of one host,
# and a message is there three times while it is parsed. Without limits it is 2 GB.
MOST_MB = 600
ANSWERS = 20


async def together(target: str, statuses: Statuses) -> None:
    await asyncio.gather(*(attack(target, statuses) for attack in SMALLER.values()))


async def test_one_client_cannot_stop_the_others(checkpoint_dir: Callable[[str], Path]) -> None:
    assert SMALLER.keys() == ATTACKS.keys()
    target = f"127.0.0.1:{free_port()}"
    async with Fleet(checkpoint_dir("micro-glm4v"), listen={"gateway": target}) as fleet:
        await fleet.only("gateway", "lm_worker")
        pids = {"gateway": fleet.pid("gateway")}
        before = resident_mb(pids["gateway"])
        outcome = await measure("all", together, target, pids, ANSWERS)
    assert outcome.beside.failures == []
    assert len(outcome.beside.answers_s) == ANSWERS
    assert outcome.memory_mb["gateway"] - before < MOST_MB
    assert not {"CANCELLED", "UNAVAILABLE", "INTERNAL", "UNKNOWN"} & outcome.statuses.keys()
