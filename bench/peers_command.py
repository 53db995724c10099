"""`glm4v bench peers`: this server and others, measured in turns to cancel the machine's drift."""

import asyncio
import json as json_format
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm4v.errors import InvalidRequest, Unavailable
from glm4v.process.extras import require

if TYPE_CHECKING:
    from bench.peers import Load, Round, Server

_ROUNDS_HELP = "Rounds of each server, in turns."
# Between turns: a server's threads spin for a while after its last response.
_SETTLE_S = 1.0
_MIN_REQUESTS = 4  # per turn, so that the median is not its first or last


def peers(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Our gateway.")],
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A server with OpenAI's interface; may be repeated."),
    ] = None,
    model: Annotated[str, typer.Option(help="Name the peers serve the model under.")] = "m",
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Concurrent requests; may be repeated. Default: 1 4 10."),
    ] = None,
    prompt: Annotated[int, typer.Option(min=8, help="Prompt tokens.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, help="Output tokens.")] = 128,
    image: Annotated[
        int, typer.Option(min=0, help="Side of a new image in each request, pixels; 0: none.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, help=_ROUNDS_HELP)] = 3,
    same_image: Annotated[
        bool, typer.Option("--same-image", help="One image for all requests of a server.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of prompts and images. Default: new ones.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write PATH.md and PATH.png; needs matplotlib."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Tokens per second and time to first token of running servers, measured in turns.

    All must serve the same weights. A peer that does not respond is skipped with a message.
    """
    from rich.console import Console

    require("httpx", "bench")
    if report is not None:
        require("matplotlib", "bench")
    from bench.peers import Load, OpenAi, Ours, Server
    from bench.peers_report import table, write_page

    named = [_split(text) for text in peer or ()]
    salt = time.time_ns() if seed is None else seed
    load = Load(prompt, tokens, image, same_image=same_image, seed=salt)

    async def compare() -> "list[Round]":
        servers: list[Server[Any]] = [Ours(server), *(OpenAi(n, url, model) for n, url in named)]
        return await _compare(servers, load, concurrency or [1, 4, 10], rounds)

    results = asyncio.run(compare())
    if json:
        typer.echo(json_format.dumps({**asdict(load), "rounds": [asdict(r) for r in results]}))
    else:
        Console(width=150).print(table(results, load))
    if report is not None:
        write_page(results, load, rounds, report)


def _split(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not (name and equals and url):
        raise InvalidRequest(f"--peer {text}: NAME=URL is needed, as vllm=http://127.0.0.1:8000")
    return name, url


async def _compare(
    servers: list["Server[Any]"], load: "Load", concurrencies: list[int], rounds: int
) -> list["Round"]:
    """Rounds in the order A B A B, after a warm-up round of each server."""
    import httpx
    from rich.console import Console
    from rich.progress import Progress

    from bench.peers import measure

    available: list[Server[Any]] = []
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("warming up", total=len(concurrencies) * rounds)
        for server in servers:
            try:
                await measure(server, load, max(concurrencies), max(concurrencies), round_number=-1)
                available.append(server)
            except (Unavailable, httpx.HTTPError) as error:
                typer.echo(f"{server.name} skipped: {error!r}", err=True)
        for concurrency in concurrencies:
            for number in range(rounds):
                progress.update(task, description=f"{concurrency} concurrent requests")
                for server in available:
                    await asyncio.sleep(_SETTLE_S)
                    requests = max(_MIN_REQUESTS, 2 * concurrency)
                    results.append(await measure(server, load, concurrency, requests, number))
                progress.advance(task)
    return results
