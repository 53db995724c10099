"""`glm4v bench doors`: what a gateway spends on a token, by door.

    clients (one process) ⇄ one gateway (a core of its own) ⇄ Redis ⇄ a worker that computes nothing

The worker takes all requests, then appends one token to each at a fixed rate, all in one step, as a
language worker does. A token's latency is the time from the beginning of its step to its arrival at
its client, so it has the time that Redis takes, too.
"""

import asyncio
import json as json_format
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from glm4v.errors import InvalidRequest, RequestFailed

DOORS = {"gRPC": "grpc", "KServe": "grpc", "SSE": "http"}  # by what their target is
_START_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """One door under one load.

    Attributes:
        tokens_s: Delivered to all clients together.
        cpu_ms: Of the gateway for 1000 tokens, after its streams have begun.
        core_tokens_s: What one core would deliver at that price.
        p50_ms, p99_ms: Latency of tokens.
    """

    door: str
    clients: int
    tokens_s: float
    cpu_ms: float
    core_tokens_s: float
    p50_ms: float
    p99_ms: float


def doors(
    door: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(DOORS)}; may be repeated. Default: all.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="Streams at once.")] = 500,
    tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 100,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Tokens/s of each stream; may be repeated. Default: 4 and 10."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Tokens/s, the gateway's CPU time and latency of streaming clients, by door.

    Nothing is computed: the figures are those of the gateway. It has one core, all else the others.
    """
    if unknown := set(door or ()) - set(DOORS):
        raise InvalidRequest(f"--door {unknown.pop()}: {', '.join(DOORS)} are known")
    cores = os.sched_getaffinity(0)
    try:
        figures = asyncio.run(
            _measure_all(door or list(DOORS), clients, tokens, rate or [4.0, 10.0])
        )
    finally:
        os.sched_setaffinity(0, cores)
    if json:
        typer.echo(json_format.dumps([asdict(each) for each in figures]))
        return
    typer.echo(
        "| door | streams | tokens/s | CPU ms / 1000 tokens | tokens/s a core | p50 ms | p99 ms |"
    )
    typer.echo("|---|---|---|---|---|---|---|")
    for each in figures:
        typer.echo(
            f"| {each.door} | {each.clients} | {each.tokens_s:.0f} | {each.cpu_ms:.1f} "
            f"| {each.core_tokens_s:.0f} | {each.p50_ms:.1f} | {each.p99_ms:.1f} |"
        )


async def _measure_all(
    names: Sequence[str], clients: int, tokens: int, rates: Sequence[float]
) -> list[Figures]:
    from glm4v.checkpoint.tiny import write_tiny
    from glm4v.host.temporary_folder import TemporaryFolder
    from glm4v.local.cluster import ClusterSettings, LocalCluster

    cores = sorted(os.sched_getaffinity(0))
    others = cores[1:] or cores
    os.sched_setaffinity(0, others)  # of all processes that this one starts
    with TemporaryFolder("doors") as folder:
        model = folder / "tiny"
        write_tiny(model)
        settings = ClusterSettings(
            model,
            vision_workers=0,
            lm_workers=0,
            http_port=0,
            environment={
                "GLM4V_MAX_OPEN_REQUESTS": str(4 * clients),
                "GLM4V_MAX_CALLS_PER_CONNECTION": str(clients),
            },
        )
        async with LocalCluster(settings) as cluster:
            gateway = cluster.process("gateway").pid
            _move(gateway, cores[0])
            assert cluster.own_redis_url is not None
            assert cluster.http_url is not None
            bench = _Bench(model, cluster.own_redis_url, gateway, clients, tokens)
            targets = {"http": cluster.http_url, "grpc": cluster.target}
            return [
                await bench.measure(name, targets[DOORS[name]], rate)
                for rate in rates
                for name in names
            ]


class _Bench:
    """Measures doors of one gateway, one after the other."""

    def __init__(
        self, model: Path, redis_url: str, gateway: int, clients: int, tokens: int
    ) -> None:
        self._model = model
        self._redis_url = redis_url
        self._gateway = gateway
        self._clients = clients
        self._tokens = tokens

    async def measure(self, door: str, target: str, rate: float) -> Figures:
        """One door at one rate. Raises RequestFailed where a client fails or misses a token."""
        from bench.doors_worker import StepWorker

        command = (sys.executable, "-m", "bench.doors_clients", door, target, self._model.name)
        clients = await asyncio.create_subprocess_exec(
            *command, str(self._clients), str(self._tokens), stdout=asyncio.subprocess.PIPE
        )
        try:
            async with StepWorker(self._model, self._redis_url) as worker:
                async with asyncio.timeout(_START_S):
                    await worker.claim(self._clients)
                await worker.step()  # so that all streams have begun
                await asyncio.sleep(1)
                before = cpu_s(self._gateway)
                began = await worker.run(self._tokens - 1, rate)
                async with asyncio.timeout(_START_S):
                    out, _ = await clients.communicate()
                spent_s = cpu_s(self._gateway) - before
        finally:
            if clients.returncode is None:
                clients.kill()
        if clients.returncode != 0:
            raise RequestFailed(f"the clients of {door} failed; see above")
        return self._figures(door, json_format.loads(out), began, spent_s)

    def _figures(
        self, door: str, arrivals: list[list[float]], began: list[float], spent_s: float
    ) -> Figures:
        """Arrivals of each client's tokens after the first, and when their steps began."""
        late = sorted(
            arrived - start
            for each in arrivals
            for arrived, start in zip(each[1:], began, strict=True)
        )
        count = len(late)
        last = max(each[-1] for each in arrivals)
        cpu_ms = 1000 * spent_s / (count / 1000)
        return Figures(
            door,
            len(arrivals),
            tokens_s=count / (last - began[0]),
            cpu_ms=cpu_ms,
            core_tokens_s=1_000_000 / cpu_ms if cpu_ms else 0.0,
            p50_ms=1000 * late[count // 2],
            p99_ms=1000 * late[count * 99 // 100],
        )


def _move(pid: int, core: int) -> None:
    """Run all threads of a process, and those that they start, on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
