"""`glm4v demo`: everything once, on any machine."""

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from glm4v.cli.answer import summary
from glm4v.cli.reading import INTERRUPTED, STAGE_NAMES
from glm4v.client import Client
from glm4v.conversation import question
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.local.foreground import Foreground

_QUESTION = "图片里有什么？"
_MAX_TOKENS = 48


def demo(
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A checkpoint; else a tiny one with random weights."),
    ] = None,
) -> None:
    """Start the whole system, ask it about a picture drawn here, show the answer, stop it."""
    with tempfile.TemporaryDirectory(prefix="glm4v-demo-") as folder:
        checkpoint = model or _write_tiny(Path(folder) / "tiny")
        typer.echo("starting Redis, a vision worker, a language worker and a gateway")
        foreground = Foreground(ClusterSettings(checkpoint), lambda name, line: None)
        is_noise = model is None
        asyncio.run(foreground.run(lambda cluster: _ask(cluster, is_noise=is_noise)))
    if foreground.signals:
        raise typer.Exit(INTERRUPTED)
    typer.echo("stopped")


def _write_tiny(folder: Path) -> Path:
    from glm4v.tiny import write_tiny  # PyTorch: seconds that no other subcommand should take

    typer.echo("writing a tiny checkpoint with random weights")
    write_tiny(folder)
    return folder


async def _ask(cluster: LocalCluster, *, is_noise: bool) -> None:
    client = Client(cluster.target)
    try:
        await asyncio.to_thread(_show_answer, client, is_noise)
    finally:
        client.close()  # ends the thread too, when a signal ended us


def _show_answer(client: Client, is_noise: bool) -> None:
    typer.echo(f"asking about a picture of a house under the sun: {_QUESTION}")
    messages = question(_draw(), _QUESTION)
    with client.generate(messages, max_tokens=_MAX_TOKENS, seed=1, ignore_eos=is_noise) as answer:
        is_first = True
        for event in answer:
            stage = STAGE_NAMES.get(event.progress.stage)
            if stage:
                typer.echo(f"  {stage}")
            piece = event.delta.text or event.finished.text
            if is_noise:  # terminals take some characters as commands
                piece = "".join(letter if letter.isprintable() else "·" for letter in piece)
            if piece:
                sys.stdout.write(f"\n{piece}" if is_first else piece)
                sys.stdout.flush()
                is_first = False
        assert answer.finished is not None  # or the loop had raised
        typer.echo(f"\n\n{summary(answer.finished)}")
    if is_noise:
        typer.echo("The weights are random, so the answer is noise. A real checkpoint answers:")
        typer.echo("  glm4v up --model DIR")


def _draw() -> bytes:
    """A PNG of a house on grass, and the sun."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (224, 224), "lightskyblue")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 160, 224, 224), fill="yellowgreen")
    draw.ellipse((160, 20, 204, 64), fill="gold")
    draw.rectangle((50, 110, 140, 190), fill="firebrick")
    draw.polygon(((40, 110), (95, 60), (150, 110)), fill="saddlebrown")
    draw.rectangle((85, 150, 105, 190), fill="wheat")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
