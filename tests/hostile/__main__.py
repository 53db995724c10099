"""Attacks a whole system on this machine beside an honest client: `make hostile`."""

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from glm4v.checkpoint.tiny import write_tiny
from tests.e2e.fleet import Fleet
from tests.hostile.attacks import ATTACKS
from tests.hostile.run import measure
from tests.proxies import free_port

_HEAD = (
    "| attack | honest p50 / p99 alone, ms | beside it (answers) | slowest health check, ms "
    "| MB before → at most | statuses of the attack | failures of the honest |\n"
    "|---|---|---|---|---|---|---|\n"
)


async def attack(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_tiny(model)
        target = f"127.0.0.1:{free_port()}"
        async with Fleet(model, listen={"gateway": target}) as fleet:
            sys.stdout.write(_HEAD)
            for name in names:
                await fleet.only("gateway", "lm_worker")
                pids = {each: fleet.pid(each) for each in ("gateway", "redis")}
                outcome = await measure(name, ATTACKS[name], target, pids)
                sys.stdout.write(outcome.line() + "\n")
                sys.stdout.flush()
                await fleet.kill("gateway")


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
