"""`glm4v bench`, and `glm4v bench engine`: the language engine's speed and what limits it."""

import asyncio
import dataclasses
import json as json_format
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.compare.command import compare
from bench.doors import doors
from bench.drafts_command import drafts
from bench.journals import journals
from bench.load_command import load
from bench.offline_command import offline
from bench.peers_command import peers
from bench.products import products
from bench.profile.command import profile
from bench.serve.command import serve
from bench.vision import vision
from bench.whole_model.command import whole_model
from glm4v.errors import InvalidRequest
from glm4v.host.temporary_folder import TemporaryFolder
from glm4v.process.extras import require

if TYPE_CHECKING:
    from bench.engine import Figures, Load

command = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")
command.command()(peers)
command.command()(journals)
command.command()(doors)
command.command()(offline)
command.command()(profile)
command.command()(serve)
command.command()(compare)
command.command()(whole_model)
command.command()(load)
command.command()(products)
command.command()(vision)
command.command()(drafts)


@command.callback()
def bench() -> None:
    """Measure speed on this machine."""


@command.command()
def engine(
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A checkpoint; else a random one of 138 M weights."),
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="May be repeated. Default: auto.")] = None,
    weight_dtype: Annotated[
        list[str] | None, typer.Option(help="Each with each dtype; may be repeated. Default: auto.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Sequences; may be repeated. Default: 1 4 10.")
    ] = None,
    context: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Prompt tokens; may be repeated. Default: 64 1024."),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Decode steps at each point.")] = 64,
    rounds: Annotated[
        int, typer.Option(min=1, help="Times each point is measured; the median is shown.")
    ] = 1,
    threads: Annotated[int, typer.Option(help="Arithmetic threads; 0: one for each core.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a plot as PNG; needs matplotlib.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Prefill and decode speed by batch size and context, and the parts of a step.

    One process, no Redis. "roofline" is the memory bandwidth of decode steps as a share of that of
    a loop that only reads, measured right before and after; "host load" is the number of cores
    that other processes used meanwhile.
    """
    if plot is not None:
        require("matplotlib", "bench")
    from rich.console import Console

    from bench.engine import Load
    from bench.report import plot as draw
    from bench.report import table

    loads = [Load(b, c, steps) for c in context or (64, 1024) for b in batch or (1, 4, 10)]
    dtypes = list(product(dtype or ["auto"], weight_dtype or ["auto"]))
    figures, title = _measure_all(model, dtypes, loads, rounds, threads)
    if json:
        points = [
            {
                **dataclasses.asdict(at),
                "parts": at.parts._asdict(),
                "roofline_share": at.roofline_share,
            }
            for at in figures
        ]
        typer.echo(json_format.dumps({"title": title, "steps": steps, "points": points}))
    else:
        Console(width=150).print(table(figures, title))
    if plot is not None:
        draw(figures, title, plot)


def _measure_all(
    model: Path | None,
    dtypes: Sequence[tuple[str, str]],
    loads: Sequence["Load"],
    rounds: int,
    threads: int,
) -> tuple[list["Figures"], str]:
    """All points, and a title that names model and threads."""
    import torch

    from bench.machine import SideProcess
    from bench.model import write_medium

    with TemporaryFolder("bench") as folder:
        if model is None:
            model = folder / "medium"
            with SideProcess(torch.get_num_threads()) as helper:
                helper.call(write_medium, model)
        figures = asyncio.run(_sweep(model, dtypes, loads, rounds, threads))
    return figures, f"{model.name}, {torch.get_num_threads()} threads"


async def _sweep(
    model: Path,
    dtypes: Sequence[tuple[str, str]],
    loads: Sequence["Load"],
    rounds: int,
    threads: int,
) -> list["Figures"]:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from bench.engine import Bench
    from bench.machine import SideProcess
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.device import DeviceOptions, open_device

    checkpoint = Checkpoint.open(model)
    longest = max(load.context + load.max_tokens for load in loads)
    if longest > checkpoint.spec.context_tokens:
        raise InvalidRequest(
            f"{longest} tokens of context and output requested, the model takes "
            f"{checkpoint.spec.context_tokens}; use a shorter --context or fewer --steps"
        )
    figures = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading", total=len(dtypes) * len(loads))
        for dtype, weight_dtype in dtypes:
            is_bfloat16 = checkpoint.is_bfloat16(vision=False)
            device = open_device(DeviceOptions("auto", dtype, weight_dtype, threads, is_bfloat16))
            name = dtype if weight_dtype == "auto" else f"{dtype}, weights {weight_dtype}"
            with SideProcess(torch.get_num_threads()) as helper:  # as many as the device set
                async with Bench(checkpoint, device, name, loads, helper).running() as running:
                    for load in loads:
                        what = f"{device.description}: {load.batch} x {load.context}"
                        progress.update(task, description=what)
                        measured = [await running.measure(load) for _ in range(rounds)]
                        measured.sort(key=lambda at: at.roofline_share)
                        figures.append(measured[rounds // 2])
                        progress.advance(task)
    return figures
