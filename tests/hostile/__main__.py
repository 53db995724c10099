"""Attacks a whole system on this machine beside an honest client: `make hostile`."""

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from glm4v.checkpoint.tiny import write_tiny
from tests.e2e.fleet import Fleet
from tests.hostile.attacks import ATTACKS
from tests.hostile.honest import Honest
from tests.hostile.ordinary import ordinary_load
from tests.hostile.run import ANSWERS, Watch, measure
from tests.proxies import free_port

_HEAD = (
    "| attack | honest p50 / p99 alone, ms | beside it (answers) | times | slowest health, ms "
    "| cores of the attacker | MB at most (of ordinary load) | statuses of the attack "
    "| failures of the honest |\n|---|---|---|---|---|---|---|---|---|\n"
)
_ENVIRONMENT = {"GLM4V_LEASE_S": "10"}  # as it is unless tests want otherwise
_ORDINARY_S = 15.0
_FLEET = ("gateway", "vision_worker", "lm_worker")


async def attack(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_tiny(model)
        target = f"127.0.0.1:{free_port()}"
        async with Fleet(model, listen={"gateway": target}, environment=_ENVIRONMENT) as fleet:
            ordinary = await _ordinary_mb(fleet, target)
            held = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in ordinary.items())
            sys.stdout.write(f"MB at most under ordinary load: {held}\n\n{_HEAD}")
            for name in names:
                # Requests of an attack run on for a while, and would slow the honest client alone.
                await fleet.connection.commands.flushall()
                await fleet.only(*_FLEET)
                outcome = await measure(name, ATTACKS[name], target, _pids(fleet))
                sys.stdout.write(outcome.line(ordinary) + "\n")
                sys.stdout.flush()
                await fleet.kill("gateway")


async def _ordinary_mb(fleet: Fleet, target: str) -> dict[str, float]:
    """The most that each process holds while ordinary clients and the honest one ask."""
    await fleet.only(*_FLEET)
    watch = Watch(_pids(fleet))
    async with watch.watching(), ordinary_load(target), Honest(target) as honest:
        await honest.ask(ANSWERS, _ORDINARY_S)
    await fleet.kill("gateway")
    return watch.most_mb


def _pids(fleet: Fleet) -> dict[str, int]:
    return {name: fleet.pid(name) for name in ("redis", *_FLEET)}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser("hostile", description=__doc__)
    parser.add_argument("attack", nargs="*", help=f"all, or some of: {', '.join(ATTACKS)}")
    names = parser.parse_args().attack or list(ATTACKS)
    if unknown := set(names) - set(ATTACKS):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    asyncio.run(attack(names))


if __name__ == "__main__":
    main()
