"""`glm4v bench peers`: this system beside others, in turns, so that the machine's drift cancels."""

import asyncio
import json as json_format
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from rich.table import Table

    from offline.peers import Load, Round, Server

_ROUNDS_HELP = "Rounds of each server, in turns."


def peers(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Our gateway.")],
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A server with OpenAI's interface; may be repeated."),
    ] = None,
    model: Annotated[str, typer.Option(help="Name the peers serve the model under.")] = "m",
    concurrency: Annotated[
        list[int] | None, typer.Option(min=1, help="Callers; may be repeated. Default: 1 4 10.")
    ] = None,
    prompt: Annotated[int, typer.Option(min=8, help="Prompt tokens.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, help="Answer tokens.")] = 128,
    picture: Annotated[
        int, typer.Option(min=0, help="Side of a new picture in each request, pixels; 0: none.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, help=_ROUNDS_HELP)] = 3,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a plot as PNG; needs matplotlib.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Tokens a second and time to the first token of running servers, measured in turns.

    All have to serve the same weights. A peer that does not answer is left out, by name.
    """
    from rich.console import Console

    from offline.peers import Load, OpenAi, Ours, Server

    named = [_split(text) for text in peer or ()]
    load = Load(prompt, tokens, picture)

    async def compare() -> "list[Round]":
        servers: list[Server] = [Ours(server), *(OpenAi(n, url, model) for n, url in named)]
        return await _compare(servers, load, concurrency or [1, 4, 10], rounds)

    results = asyncio.run(compare())
    if json:
        typer.echo(json_format.dumps({**asdict(load), "rounds": [asdict(r) for r in results]}))
    else:
        Console(width=120).print(_table(results, load))
    if plot is not None:
        _plot(results, load, plot)


def _split(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not (name and equals and url):
        raise InvalidRequest(f"--peer {text}: NAME=URL is needed, as vllm=http://127.0.0.1:8000")
    return name, url


async def _compare(
    servers: list["Server"], load: "Load", concurrencies: list[int], rounds: int
) -> list["Round"]:
    """Rounds in the order A B A B; the first of each server warms it up and does not count."""
    import httpx
    from rich.console import Console
    from rich.progress import Progress

    from offline.peers import measure

    there: list[Server] = []
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("warming up", total=len(concurrencies) * rounds)
        for server in servers:
            try:
                await measure(server, load, max(concurrencies), max(concurrencies), seed=-1)
                there.append(server)
            except (Unavailable, httpx.HTTPError) as error:
                typer.echo(f"{server.name} is left out: {error!r}", err=True)
        for concurrency in concurrencies:
            for number in range(rounds):
                progress.update(task, description=f"{concurrency} callers")
                for server in there:
                    requests = max(2, 2 * concurrency)
                    seed = 1000 * concurrency + number
                    results.append(await measure(server, load, concurrency, requests, seed))
                progress.advance(task)
    return results


def _medians(results: list["Round"], concurrency: int) -> dict[str, tuple[float, float, float]]:
    """For each server: tokens/s, time to the first token, and its paired ratio to the first."""
    rounds: dict[str, list[Round]] = {}
    for one in results:
        if one.concurrency == concurrency:
            rounds.setdefault(one.server, []).append(one)
    ours = next(iter(rounds.values()))
    return {
        name: (
            statistics.median(one.tokens_s for one in own),
            statistics.median(one.first_token_s for one in own),
            statistics.median(a.tokens_s / b.tokens_s for a, b in zip(ours, own, strict=True)),
        )
        for name, own in rounds.items()
    }


def _table(results: list["Round"], load: "Load") -> "Table":
    from rich.table import Table

    what = f", a new {load.picture_side} px picture each" if load.picture_side else ""
    table = Table(title=f"{load.prompt_tokens} + {load.answer_tokens} tokens{what}")
    for column in ("callers", "server", "tokens/s", "first token", "ours / theirs"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for concurrency in sorted({one.concurrency for one in results}):
        for name, (rate, first_s, ratio) in _medians(results, concurrency).items():
            cells = (str(concurrency), name, f"{rate:.1f}", f"{first_s:.2f} s", f"{ratio:.2f}")
            table.add_row(*cells)
    return table


def _plot(results: list["Round"], load: "Load", file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    concurrencies = sorted({one.concurrency for one in results})
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in dict.fromkeys(one.server for one in results):
        rates = [_medians(results, concurrency)[name][0] for concurrency in concurrencies]
        axes.plot(concurrencies, rates, marker="o", label=name)
    axes.set_xlabel("callers")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{load.prompt_tokens} prompt + {load.answer_tokens} answer tokens")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
