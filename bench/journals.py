"""`glm4v bench journals`: the cost of making every token durable before a client sees it.

One engine in one process takes requests directly and through a worker, in turns. The worker claims
them from a Redis and appends each step to their journals.
"""

import asyncio
import json as json_format
import statistics
from pathlib import Path
from typing import Annotated

import typer

from glm4v.host.temporary_folder import TemporaryFolder


def journals(
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A checkpoint; else a random one of 138 M weights."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="As GLM4V_DTYPE.")] = "auto",
    requests: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 7,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Output tokens/s with journals in Redis and of the engine alone, measured in turns."""

    from bench.model import write_medium

    with TemporaryFolder("bench") as folder:
        if model is None:
            model = folder / "medium"
            write_medium(model)
        pairs = asyncio.run(_measure(model, dtype, folder, requests, tokens, rounds))
    alone, journaled = (statistics.median(side) for side in zip(*pairs, strict=True))
    share = statistics.median(one / other for other, one in pairs)
    if json:
        figures = {
            "alone_tokens_s": alone,
            "journals_tokens_s": journaled,
            "share": share,
            "pairs": pairs,
        }
        typer.echo(json_format.dumps(figures))
    else:
        typer.echo(
            f"{requests} requests of {tokens} tokens: {alone:.1f} tokens/s alone, "
            f"{journaled:.1f} with journals; median share of {rounds} pairs {share:.3f}"
        )


async def _measure(
    model: Path, dtype: str, folder: Path, requests: int, tokens: int, rounds: int
) -> list[tuple[float, float]]:
    """Tokens/s without and with journals, for each round; the order alternates."""
    from bench.worker import Bench
    from glm4v.local.redis_server import RedisServer

    with RedisServer(folder / "redis") as redis:
        async with Bench(model, dtype, redis.url, requests, tokens).running() as bench:
            await bench.without_journals()  # the first steps of a process are slower
            await bench.with_journals()
            pairs = []
            for number in range(rounds):
                if number % 2:
                    journaled = await bench.with_journals()
                    pairs.append((await bench.without_journals(), journaled))
                else:
                    alone = await bench.without_journals()
                    pairs.append((alone, await bench.with_journals()))
    return pairs
