"""Reads every journal and every client's record, and says whether the promises held."""

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tests.chaos.load import Load
from tests.e2e.fleet import LEASE_S, Fleet
from tests.e2e.journals import Journal, read_journal
from tests.e2e.reading import Reading
from tests.queues import left_behind

_SETTLED_S = 2 * LEASE_S


@dataclass
class Verdict:
    """The figures; counts of requests, tokens, images and cache blocks."""

    faults: int
    erasures: int = 0  # how often Redis lost everything, on purpose
    accepted: int = 0  # journals
    finished: int = 0
    failed: int = 0  # accepted, and ended with an error nobody asked for
    cancelled: int = 0
    refused: int = 0  # never accepted, and the client was told
    erased: int = 0  # accepted, and their journals were erased; the client was told an end
    lost: int = 0  # accepted without an end, or the client was not told the end
    duplicated: int = 0  # tokens and ends there were twice, for the client or in the journal
    missing: int = 0  # tokens that are not there
    different: int = 0  # requests whose tokens are not those of the undisturbed run
    encodes_per_image_max: int = 0
    blocks_leaked: float = 0
    left_in_redis: int = 0  # kinds of leases, jobs and open requests when all is over
    crashes: int = 0  # processes that ended by themselves
    pause_p99_s: float = 0.0  # over requests, of the longest time between two tokens
    failures: list[str] = field(default_factory=list)  # of requests that count as failed, why

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        broken = (
            self.failed,
            self.lost,
            self.duplicated,
            self.missing,
            self.different,
            self.blocks_leaked,
            self.left_in_redis,
            self.crashes,
        )
        return (
            not any(broken)
            and self.encodes_per_image_max <= 1 + self.erasures
            and self.finished > 0
            and (self.erasures > 0 or not self.erased)
        )

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


async def check(
    fleet: Fleet, load: Load, undisturbed: Mapping[str, list[int]], verdict: Verdict
) -> None:
    """Fill in what can be known while everything runs and no request is open."""
    for name, reading in load.readings:
        journal = await read_journal(fleet.connection, fleet.keys, reading.request_id)
        judge(verdict, reading, journal, undisturbed[name])
    pauses = sorted(reading.longest_pause_s for _, reading in load.readings if reading.token_ids)
    if pauses:
        p99_s = round(pauses[math.ceil(0.99 * len(pauses)) - 1], 3)
        verdict.pause_p99_s = max(verdict.pause_p99_s, p99_s)
    await check_end(fleet, load, verdict)


async def check_end(fleet: Fleet, load: Load, verdict: Verdict) -> None:
    """Fill in what does not depend on single requests."""
    most = load.most_encodes(fleet)
    verdict.encodes_per_image_max = max(verdict.encodes_per_image_max, most)
    verdict.left_in_redis += len(await left_behind(fleet.connection, fleet.keys))


async def count_leaks(fleet: Fleet, worker: str) -> float:
    """KV cache blocks that a language worker holds though no request is open."""
    assert await fleet.metric(worker, "glm4v_kv_cache_blocks") > 0
    await asyncio.sleep(_SETTLED_S)  # a cancelled request leaves with the next renewal
    return await fleet.metric(worker, "glm4v_kv_cache_blocks", state="used")


def judge(verdict: Verdict, reading: Reading, journal: Journal | None, expected: list[int]) -> None:
    """Count one request in, given the tokens of the undisturbed run."""
    end = reading.terminal[0] if reading.terminal else "none"
    if journal is None:
        is_erased = reading.is_accepted and verdict.erasures > 0 and end != "none"
        verdict.erased += is_erased
        verdict.lost += reading.is_accepted and not is_erased
        verdict.refused += not reading.is_accepted
        verdict.duplicated += reading.duplicated
        verdict.missing += reading.missing
        verdict.different += reading.token_ids != expected[: len(reading.token_ids)]
        return
    verdict.accepted += 1
    verdict.finished += end == "finished"
    verdict.cancelled += end == "CANCELLED"
    if end not in ("finished", "CANCELLED", "none"):
        verdict.failed += 1
        verdict.failures.append(f"{reading.request_id} {end} {reading.details}")
    verdict.lost += not journal.ends or end == "none"
    verdict.duplicated += reading.duplicated + journal.duplicated + max(0, len(journal.ends) - 1)
    verdict.duplicated += journal.is_behind_end
    verdict.missing += reading.missing + journal.missing
    if end == "finished":
        verdict.missing += max(0, len(expected) - len(reading.token_ids))
    verdict.different += any(
        tokens != expected[: len(tokens)] for tokens in (reading.token_ids, journal.token_ids)
    )
