"""`glm4v demo`: the whole system, on any machine."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from glm4v.checkpoint.demo import DEMO_MODEL, Example, demo_examples
from glm4v.cli.answer import summary
from glm4v.cli.reading import INTERRUPTED
from glm4v.client import Client
from glm4v.client.messages import assistant_message, user_message
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.local.foreground import Foreground
from glm4v.v1 import inference_pb2 as pb

_MAX_TOKENS = 64


def demo(
    model: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A checkpoint.", show_default="the one shipped"),
    ] = DEMO_MODEL,
) -> None:
    """Start the system, ask about a few images in English and Chinese, and stop it."""
    typer.echo("starting Redis, a vision worker, a language worker and a gateway")
    foreground = Foreground(ClusterSettings(model), lambda name, line: None)
    asyncio.run(foreground.run(_ask))
    if foreground.signals:
        raise typer.Exit(INTERRUPTED)
    typer.echo("\nstopped; to ask your own questions, run glm4v up, and in another terminal one of")
    typer.echo("the commands that `glm4v examples` prints, or: glm4v ask photo.jpg 'What is this?'")


async def _ask(cluster: LocalCluster) -> None:
    client = Client(cluster.target)
    try:
        await asyncio.to_thread(_show_all, client)
    finally:
        client.close()  # stops the thread too, after a signal


def _show_all(client: Client) -> None:
    for example in demo_examples():
        typer.echo(f"\n{example.image or 'no image'}")
        _show(client, example)


def _show(client: Client, example: Example) -> None:
    image = None if example.image is None else example.image.read_bytes()
    messages: list[pb.Message] = []
    for wording, _ in example.turns:
        messages += [user_message(wording, None if messages else image)]
        typer.echo(f"  > {wording}")
        with client.generate(messages, temperature=0, max_tokens=_MAX_TOKENS) as generation:
            text = generation.text
        assert generation.choices[0].finished is not None  # else reading would have raised
        # The answer of another checkpoint may contain terminal control sequences.
        shown = "".join(letter if letter.isprintable() else "·" for letter in text)
        typer.echo(f"    {shown}   ({summary(generation.choices[0].finished)})")
        messages.append(assistant_message(text))
