"""Hours of mixed load with faults, and what each process holds: `make soak SECONDS=7200`.

One process of each kind and Redis are left alone, and their memory, descriptors and threads are
watched; the second of each kind is killed, paused and drained as `make chaos` does. Exit code 1
when a gauge of a process rises, or when a promise was broken.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from glm4v.checkpoint.tiny import write_tiny
from tests.chaos.checker import check_end
from tests.chaos.faults import NAMES, Faults
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader
from tests.soak.gauges import Gauges
from tests.soak.load import JudgedLoad
from tests.soak.report import plot, trends, write_csv

_SPARED = ("gateway", "vision_worker", "lm_worker", "redis")
_LAST_REQUESTS_S = 120.0  # how long the requests under way at the end may take


async def run(model: Path, arguments: argparse.Namespace) -> bool:
    """Whether everything held; writes the report."""
    environment = {"GLM4V_RESULT_TTL_S": str(arguments.retention)}
    async with Fleet(model, environment=environment) as fleet:
        await fleet.start(*NAMES)
        load = JudgedLoad(fleet, arguments.seed)
        faults = Faults(fleet, arguments.seed, spared=_SPARED)
        gauges = Gauges(fleet, _SPARED)
        retry_timeout_s = arguments.seconds + _LAST_REQUESTS_S
        async with Reader(fleet.targets, timeout_s=retry_timeout_s) as reader:
            async with anyio.create_task_group() as group:
                for number in range(arguments.clients):
                    group.start_soon(load.client, reader, number)
                async with anyio.create_task_group() as watching:
                    watching.start_soon(gauges.run, arguments.every)
                    await faults.run(arguments.seconds)
                    watching.cancel_scope.cancel()
                load.stop()
                group.cancel_scope.deadline = anyio.current_time() + _LAST_REQUESTS_S
            load.verdict.faults = sum(faults.counts.values())
            load.verdict.crashes = len(faults.crashes)
            await check_end(fleet, load, load.verdict)
    for crash in faults.crashes:
        sys.stderr.write(crash + "\n")
    return _report(gauges, load, arguments)


def _report(gauges: Gauges, load: JudgedLoad, arguments: argparse.Namespace) -> bool:
    title = f"{arguments.seconds:.0f} s, {arguments.clients} clients, {load.asked} requests"
    if arguments.report is not None:
        write_csv(gauges.samples, arguments.report.with_suffix(".csv"))
        plot(gauges.samples, title, arguments.report.with_suffix(".png"))
    sys.stdout.write(f"{title}\n")
    rising = []
    for (name, gauge), found in trends(gauges.samples).items():
        word = "RISING" if found.is_rising else "level"
        sys.stdout.write(
            f"  {name:14} {gauge:15} median {found.level:13.0f}"
            f"  growth {found.growth:+12.0f}  {word}\n"
        )
        rising += [name] if found.is_rising else []
    sys.stdout.write(f"{load.verdict.as_json()}\n")
    return load.verdict.holds and not rising


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and the questions")
    parser.add_argument("--clients", type=int, default=8, help="that ask at the same time")
    parser.add_argument("--every", type=float, default=5, help="seconds between two looks")
    parser.add_argument("--retention", type=float, default=120, help="seconds journals are kept")
    parser.add_argument("--report", type=Path, help="where .csv and .png are written")
    parser.add_argument("--model", type=Path, help="a checkpoint; a tiny one by default")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="glm4v-") as folder:
        model = arguments.model
        if model is None:
            model = Path(folder) / "tiny"
            write_tiny(model)
        holds = asyncio.run(run(model.absolute(), arguments))
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
