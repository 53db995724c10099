"""Breaks the system on purpose while clients use it: `make chaos SECONDS=60 SEED=1 CLIENTS=32`.

Real processes and a real Redis. The last line is one JSON object; exit code 1 unless every promise
of docs/protocol.md held.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from glm4v.checkpoint.tiny import write_tiny
from glm4v.local.redis_server import RedisServer
from tests.chaos.checker import Verdict, check, count_leaks
from tests.chaos.faults import NAMES, OTHER, OTHER_NAMES, Faults
from tests.chaos.load import Load
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader
from tests.shifted_redis import LIBRARIES, ShiftedRedis
from tests.small_disk import SmallDisk

_ENVIRONMENT = {"GLM4V_RESULT_TTL_S": "7200"}  # the checker reads every journal at the end
_SEEDS = 10**6  # a second model, and what is asked of it, have other seeds
_LAST_REQUESTS_S = 120.0  # how long the requests under way at the end may take


async def run(
    models: Sequence[Path],
    seconds: float,
    seed: int,
    clients: int,
    disk: SmallDisk | None,
    *,
    erases: bool,
) -> Verdict:
    """One run, with one model or with two on the same Redis; writes the table."""
    started = time.monotonic()
    data_dir = None if disk is None else disk.folder / "data"
    redis = ShiftedRedis if LIBRARIES else RedisServer
    names = (NAMES, OTHER_NAMES)[: len(models)]
    async with Fleet(
        models[0],
        environment=_ENVIRONMENT,
        # One language worker gives a token a step, the other one several: answers are the same.
        variants={OTHER: {"GLM4V_MODEL": str(models[-1])}, "2": {"GLM4V_DRAFTS": "0"}},
        data_dir=data_dir,
        redis=redis,
    ) as fleet:
        services = [name for each in names for name in each]
        await fleet.start(*services)
        faults = Faults(fleet, seed, names=services, disk=disk, erases=erases)
        loads = [Load(seed + _SEEDS * number) for number in range(len(models))]
        async with AsyncExitStack() as stack:
            timeout_s = seconds + _LAST_REQUESTS_S
            readers = [
                await stack.enter_async_context(Reader(_gateways(fleet, each), timeout_s))
                for each in names
            ]
            async with anyio.create_task_group() as group:
                for number in range(clients):
                    side = number % len(models)
                    group.start_soon(loads[side].client, readers[side], number)
                await faults.run(seconds)
                for load in loads:
                    load.stop()
                group.cancel_scope.deadline = anyio.current_time() + _LAST_REQUESTS_S
            verdict = Verdict(
                sum(faults.counts.values()), faults.erasures, crashes=len(faults.crashes)
            )
            for load, reader in zip(loads, readers, strict=True):
                await check(fleet, load, await load.answer_undisturbed(reader), verdict)
        for name in (name for name in services if name.startswith("lm_worker")):
            verdict.blocks_leaked += await count_leaks(fleet, name)
            fleet.signal(name, signal.SIGTERM)
            verdict.crashes += await fleet.ended(name) != 0  # 1: its cache is inconsistent
    _show(dict(sorted(faults.counts.items())), "faults")
    _show(asdict(verdict), f"{clients} clients, {time.monotonic() - started:.0f} s in all")
    for crash in faults.crashes:
        sys.stderr.write(crash + "\n")
    return verdict


def _gateways(fleet: Fleet, names: Sequence[str]) -> list[str]:
    return [fleet.target(name) for name in names if name.startswith("gateway")]


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
    parser.add_argument(
        "--two-models", action="store_true", help="serve a second model on the same Redis"
    )
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
        models = [model.absolute()]
        if arguments.two_models:
            models.append(Path(folder) / "other")
            write_tiny(models[-1], seed=_SEEDS)
        verdict = asyncio.run(
            run(
                models,
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
