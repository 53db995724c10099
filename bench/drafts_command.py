"""`glm4v bench drafts`: what several tokens a step gain, and what they cost."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from glm4v.host.temporary_folder import TemporaryFolder
from offline import options as opt


def drafts(
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A checkpoint; else a random one of 138 M weights."),
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="Ask about the demo model's images instead.")
    ] = False,
    callers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="At once; may be repeated. Default: 1 and 10."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of each load, with and without drafts.")] = 3,
    tokens: Annotated[int, typer.Option(min=2, help="Of each answer without a format.")] = 128,
    dtype: opt.Dtype = "auto",
    weight_dtype: opt.WeightDtype = "auto",
) -> None:
    """The same requests with and without GLM4V_DRAFTS, in turns: structured answers, and text.

    Fails if a token differs. One process, no Redis.
    """
    from bench.draft_loads import example_loads, random_loads
    from bench.drafts import measure, table
    from bench.model import write_spelling
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.device import DeviceOptions, open_device

    async def measured() -> str:
        loads = (
            await example_loads(checkpoint, device)
            if examples
            else random_loads(checkpoint, tokens)
        )
        return table(
            await measure(checkpoint, device, loads, rounds=rounds, callers=callers or (1, 10))
        )

    with TemporaryFolder("bench") as folder:
        if model is None:
            model = folder / "random"
            write_spelling(model)
        checkpoint = Checkpoint.open(model)
        is_bfloat16 = checkpoint.is_bfloat16(vision=False)
        device = open_device(
            DeviceOptions("auto", dtype, weight_dtype=weight_dtype, is_bfloat16=is_bfloat16)
        )
        typer.echo(asyncio.run(measured()))
