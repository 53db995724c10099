"""`glm4v bench journals`: what it costs that every token is durable before it is seen.

The same engine on the same weights in one process, in turns: alone, and behind a real worker that
claims requests from a Redis and appends each step to their journals.
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
    requests: Annotated[int, typer.Option(min=1, help="That are answered together.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 7,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Output tokens/s with journals in Redis, and of the engine alone, in turns."""

    from bench.model import write_middle

    with TemporaryFolder("bench") as folder:
        if model is None:
            model = folder / "middle"
            write_middle(model)
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
    """Tokens/s alone and with journals, for each round; who begins alternates."""
    from bench.worker import Bench
    from glm4v.local.redis_server import RedisServer

    with RedisServer(folder / "redis") as redis:
        async with Bench(model, dtype, redis.url, requests, tokens).running() as bench:
            await bench.alone()  # the first steps of a process are slower
            await bench.journaled()
            pairs = []
            for number in range(rounds):
                if number % 2:
                    journaled = await bench.journaled()
                    pairs.append((await bench.alone(), journaled))
                else:
                    alone = await bench.alone()
                    pairs.append((alone, await bench.journaled()))
    return pairs
