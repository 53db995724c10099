"""`glm4v bench vision`: how near the vision tower is to the limit of the arithmetic."""

import dataclasses
import json as json_format
import time
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.errors import InvalidRequest

if TYPE_CHECKING:
    from bench.tower import Figures


def vision(
    size: Annotated[
        list[int] | None,
        typer.Option(min=28, help="Pixels a side; may be repeated. Default: 448 1120."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="As GLM4V_DTYPE.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each, in turns.")] = 5,
    threads: Annotated[int, typer.Option(help="Arithmetic threads; 0: one for each core.")] = 0,
    processor_time: Annotated[
        bool, typer.Option(help="Divide by processor time, not by the clock: others use this CPU.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Full attention and the whole vision tower beside the rate of matrix products.

    The rate of products is that of [2048, 2048] x [2048, 2048] in the same round. The tower is the
    medium model's (512 wide, 8 layers) with random weights and images that are decoded already.
    With --processor-time rates are those of one core.
    """
    sizes = size or [448, 1120]
    for pixels in sizes:
        if pixels % 28:
            raise InvalidRequest(f"--size {pixels} is no multiple of 28, two patches")

    from bench.tower import measure, medium_tower
    from glm4v.device import DeviceOptions, open_device

    device = open_device(DeviceOptions("auto", dtype, "auto", threads))
    clock = time.process_time if processor_time else time.perf_counter
    figures = [measure(device, medium_tower(pixels), rounds, clock) for pixels in sizes]
    if json:
        points = [dataclasses.asdict(at) for at in figures]
        typer.echo(json_format.dumps({"device": device.description, "points": points}))
        return
    typer.echo(device.description)
    for at in figures:
        typer.echo(_line(at))


def _line(at: "Figures") -> str:
    return (
        f"{at.pixels} px, {at.tokens} tokens: products {at.matrix / 1e9:.0f} GFLOP/s, "
        f"attention {_shares(at.attention_shares)} of it, tower {_shares(at.tower_shares)}; "
        f"{at.encode_s:.3f} s an image"
    )


def _shares(ascending: list[float]) -> str:
    middle = ascending[len(ascending) // 2]
    return f"{middle:.2f} ({ascending[0]:.2f} to {ascending[-1]:.2f})"
