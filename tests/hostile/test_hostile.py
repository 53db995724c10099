"""All attacks at once, each smaller: who is honest is answered, and memory stays."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.e2e.fleet import Fleet
from tests.hostile import attacks
from tests.hostile.attacks import ATTACKS, Attack, Statuses
from tests.hostile.run import measure
from tests.proxies import free_port

SMALLER: dict[str, Attack] = {
    "no message": partial(attacks.silent_streams, count=1000, hold_s=2),
    "slow messages": partial(attacks.slow_messages, connections=2, count=20, hold_s=2),
    "large messages": partial(attacks.large_messages, count=24, megabytes=26),
    "empty messages": partial(attacks.empty_messages, streams=100, hold_s=2),
    "resets": partial(attacks.reset_streams, count=3000),
    "idle connections": partial(attacks.idle_connections, count=300, hold_s=2),
    "many requests": partial(attacks.many_requests, connections=2, count=100),
}
# Of the gateway, above what it holds when idle: there is room for 128 MB of messages of one host,
# and a message is there three times while it is parsed. Without limits it is 2 GB.
MOST_MB = 600


async def together(target: str) -> Statuses:
    found = await asyncio.gather(*(attack(target) for attack in SMALLER.values()))
    return sum(found, Counter())


async def test_one_client_cannot_stop_the_others(checkpoint_dir: Callable[[str], Path]) -> None:
    assert SMALLER.keys() == ATTACKS.keys()
    target = f"127.0.0.1:{free_port()}"
    async with Fleet(checkpoint_dir("micro-glm4v"), listen={"gateway": target}) as fleet:
        await fleet.only("gateway", "lm_worker")
        pids = {"gateway": fleet.pid("gateway")}
        outcome = await measure("all", together, target, pids, idle_s=0.5)
        before, most = outcome.memory_mb["gateway"]
    assert outcome.beside.failures == []
    assert outcome.beside.answers_s
    assert outcome.beside.healths_s
    assert most - before < MOST_MB
    assert not {"CANCELLED", "UNAVAILABLE", "INTERNAL", "UNKNOWN"} & outcome.statuses.keys()
