"""Breaks the system on purpose while clients use it: `make chaos SECONDS=60 SEED=1 CLIENTS=32`.

Real processes and a real Redis. The last line is one JSON object; exit code 1 unless every promise
of docs/protocol.md held.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from glm4v.checkpoint.tiny import write_tiny
from glm4v.local.redis_server import RedisServer
from tests.chaos.checker import Verdict, check, count_leaks
from tests.chaos.faults import NAMES, Faults
from tests.chaos.load import Load
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader
from tests.shifted_redis import LIBRARIES, ShiftedRedis
from tests.small_disk import SmallDisk

_ENVIRONMENT = {"GLM4V_RESULT_TTL_S": "7200"}  # the checker reads every journal at the end
_LAST_REQUESTS_S = 120.0  # how long the requests under way at the end may take


async def run(
    model: Path, seconds: float, seed: int, clients: int, disk: SmallDisk | None, *, erases: bool
) -> Verdict:
    """One run; writes the table."""
    started = time.monotonic()
    data_dir = None if disk is None else disk.folder / "data"
    redis = ShiftedRedis if LIBRARIES else RedisServer
    async with Fleet(model, environment=_ENVIRONMENT, data_dir=data_dir, redis=redis) as fleet:
        await fleet.start(*NAMES)
        load, faults = Load(seed), Faults(fleet, seed, disk=disk, erases=erases)
        async with Reader(fleet.targets, timeout_s=seconds + _LAST_REQUESTS_S) as reader:
            async with anyio.create_task_group() as group:
                for number in range(clients):
                    group.start_soon(load.client, reader, number)
                await faults.run(seconds)
                load.stop()
                group.cancel_scope.deadline = anyio.current_time() + _LAST_REQUESTS_S
            undisturbed = await load.answer_undisturbed(reader)
            verdict = Verdict(
                sum(faults.counts.values()), faults.erasures, crashes=len(faults.crashes)
            )
            await check(fleet, load, undisturbed, verdict)
        for name in ("lm_worker", "lm_worker-2"):
            verdict.blocks_leaked += await count_leaks(fleet, name)
            fleet.signal(name, signal.SIGTERM)
            verdict.crashes += await fleet.ended(name) != 0  # 1: its cache is inconsistent
    _show(dict(sorted(faults.counts.items())), "faults")
    _show(asdict(verdict), f"{clients} clients, {time.monotonic() - started:.0f} s in all")
    for crash in faults.crashes:
        sys.stderr.write(crash + "\n")
    return verdict


def _show(figures: Mapping[str, float], title: str) -> None:
    width = max(map(len, figures), default=0)
    sys.stdout.write(f"{title}\n")
    for name, value in figures.items():
        sys.stdout.write(f"  {name:{width}}  {value}\n")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long things are broken")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and the questions")
    parser.add_argument("--clients", type=int, default=32, help="that ask at the same time")
    parser.add_argument("--erase", action="store_true", help="also empty Redis now and then")
    parser.add_argument("--model", type=Path, help="a checkpoint; a tiny one by default")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="glm4v-") as folder, ExitStack() as stack:
        try:
            disk = stack.enter_context(SmallDisk())
        except OSError as error:
            sys.stderr.write(f"the disk of Redis is never filled: {error}\n")
            disk = None
        if not LIBRARIES:
            sys.stderr.write("the clock of Redis is never set: install libfaketime\n")
        model = arguments.model
        if model is None:
            model = Path(folder) / "tiny"
            write_tiny(model)
        verdict = asyncio.run(
            run(
                model.absolute(),
                arguments.seconds,
                arguments.seed,
                arguments.clients,
                disk,
                erases=arguments.erase,
            )
        )
    sys.stdout.write(verdict.as_json() + "\n")
    sys.exit(0 if verdict.holds else 1)


if __name__ == "__main__":
    main()
