"""The protocol under thousands of seeded schedules, and that planted bugs are found.

Each schedule interleaves submissions, cancels, claims, appends with lost replies, renewals, lapsed
leases, crashes, hand-overs, evictions, foreign entries and readers; then healthy workers finish and
every promise is checked.
"""

import os

import pytest

from glm4v.broker import Connection, Keys, waiters
from glm4v.broker.connection import script_source
from tests.simulation.readers import Violation
from tests.simulation.schedule import run_schedule

SCHEDULES = int(os.environ.get("SCHEDULES", "3000"))  # `make simulation` runs more
SCHEDULES_FOR_A_BUG = 600

# Lines of the scripts, and what a careless change would make of them.
PLANTED = {
    "no fencing": (
        "prelude",
        "pending[2] == consumer and pending[4] == tonumber(delivery_count)",
        "true",
    ),
    "no index check": ("append", "next_index ~= first", "false"),
    "acknowledged before the end": (
        "append",
        "renew(jobs, group, consumer, entry)",
        "ack_and_delete(jobs, group, entry)",
    ),
    "a second end is written": ("close", "if kind == 'e' then return 'ended' end", ""),
    "parked requests are forgotten": (
        "encode_done",
        "for i, id in ipairs(ids) do",
        "for i in pairs({}) do local id",
    ),
    "an image is let go with the first of its requests": (
        "prelude",
        "if redis.call('HINCRBY', pinned, digest, -1) > 0 then return end",
        "redis.call('HINCRBY', pinned, digest, -1)",
    ),
    "an image may be evicted": ("prelude", "redis.call('PERSIST', image)", ""),
    "a request that ends does not let its image go": (
        "prelude",
        "  unpin(open_requests, id)\n  local jobs",
        "  local jobs",
    ),
    "a request that ends is counted on": (
        "prelude",
        "if redis.call('HINCRBY', sibling(open_requests, 'clients'), client, -1) <= 0 then",
        "if false then",
    ),
    "a request that ends stays in its line": ("prelude", "  leave_line(jobs, client, id)\n", ""),
    "a client with more requests in its line loses its turn": (
        "prelude",
        "if redis.call('EXISTS', line) == 1 then",
        "if false then",
    ),
    "a foreign entry hides a journal": ("prelude", "last = '(' .. entry[1]", "return nil, 0"),
}


def plant(connection: Connection, script: str, line: str, wrong: str) -> None:
    """Replace a line in one script, or in the prelude of all."""
    for name in connection.scripts:
        parts = {part: script_source(part) for part in ("prelude", name)}
        if script in parts:
            assert line in parts[script]
            parts[script] = parts[script].replace(line, wrong)
        connection.scripts[name] = connection.commands.register_script("".join(parts.values()))


@pytest.mark.timeout(max(600, SCHEDULES // 4))
async def test_every_promise_holds_in_every_schedule(connection: Connection, keys: Keys) -> None:
    for seed in range(SCHEDULES):
        try:
            await run_schedule(connection, keys, seed)
        except Violation as violation:
            pytest.fail(f"schedule {seed}: {violation}")


@pytest.mark.parametrize("bug", PLANTED)
async def test_a_planted_bug_is_found(connection: Connection, keys: Keys, bug: str) -> None:
    plant(connection, *PLANTED[bug])
    with pytest.raises((Violation, AssertionError)):
        await run_schedules(connection, keys)


async def test_releasing_before_storing_is_found(connection: Connection, keys: Keys) -> None:
    with pytest.raises(Violation, match="without its embedding"):
        await run_schedules(connection, keys, releases_first=True)


async def test_handing_news_to_readers_that_are_further_behind_is_found(
    connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "covers", lambda read_from, after: True)
    with pytest.raises(Violation, match="a reader of"):
        await run_schedules(connection, keys)


async def run_schedules(
    connection: Connection, keys: Keys, *, releases_first: bool = False
) -> None:
    """Enough of them that a bug shows."""
    for seed in range(SCHEDULES_FOR_A_BUG):
        await run_schedule(connection, keys, seed, releases_first=releases_first)
