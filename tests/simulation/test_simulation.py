"""The protocol under thousands of seeded schedules, and that planted bugs are found.

Each schedule interleaves submissions, cancels, claims, appends with lost replies, renewals, lapsed
leases, crashes, hand-overs and evictions; then healthy workers finish and every promise is checked.
"""

import os
from importlib.resources import files

import pytest

from glm4v.broker import Connection, Keys
from tests.simulation.actors import Violation
from tests.simulation.schedule import run_schedule

SCHEDULES = int(os.environ.get("SCHEDULES", "3000"))  # `make simulation` runs more
SCHEDULES_FOR_A_BUG = 600

# Lines of the scripts, and what a careless change would make of them.
PLANTED = {
    "no fencing": (
        "prelude",
        "pending[2] == consumer and (claims == nil or pending[4] == tonumber(claims) + 1)",
        "true",
    ),
    "no index check": ("append", "next_index ~= first", "false"),
    "acknowledged before the end": (
        "append",
        "renew(jobs, group, consumer, entry)",
        "settle(jobs, group, entry)",
    ),
    "a second end is written": ("close", "if kind == 'e' then return 'ended' end", ""),
    "parked requests are forgotten": (
        "encoded",
        "for _, id in ipairs(ids) do",
        "for _ in pairs({}) do local id",
    ),
}


def plant(connection: Connection, script: str, line: str, wrong: str) -> None:
    """Replace a line in one script, or in the prelude of all."""
    folder = files("glm4v.broker") / "scripts"
    prelude = (folder / "prelude.lua").read_text(encoding="utf-8")
    for name in connection.scripts:
        body = (folder / f"{name}.lua").read_text(encoding="utf-8")
        if script == "prelude":
            assert line in prelude
            source = prelude.replace(line, wrong) + body
        else:
            assert name != script or line in body
            source = prelude + (body.replace(line, wrong) if name == script else body)
        connection.scripts[name] = connection.commands.register_script(source)


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


async def run_schedules(
    connection: Connection, keys: Keys, *, releases_first: bool = False
) -> None:
    """Enough of them that a bug shows."""
    for seed in range(SCHEDULES_FOR_A_BUG):
        await run_schedule(connection, keys, seed, releases_first=releases_first)
