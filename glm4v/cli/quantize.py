"""`glm4v quantize`: a checkpoint with 8-bit weights, written once."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_EVERY_S = 5.0  # between two lines about progress


class WeightDtype(StrEnum):
    """What GLM4V_WEIGHT_DTYPE calls it."""

    INT8 = "int8"
    INT8_CHANNEL = "int8-channel"


def quantize(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of a checkpoint in 16 or 32 bits.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="New folder; it appears when it is complete.")
    ],
    weight_dtype: Annotated[
        WeightDtype,
        typer.Option(
            "--weight-dtype",
            help="int8: a scale for every 64 inputs. int8-channel: one for each output.",
        ),
    ] = WeightDtype.INT8,
) -> None:
    """Write a checkpoint whose language model has 8-bit weights, in compressed-tensors' format.

    Workers load it as if they had quantized SOURCE with GLM4V_WEIGHT_DTYPE, from half the bytes.
    """
    # Imported here: PyTorch takes seconds to import, and the other subcommands do not need it.
    from glm4v.checkpoint.quantized import CHANNELS, GROUPS
    from glm4v.checkpoint.quantized_copy import write_quantized

    said_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _EVERY_S or done == total:
            said_at = time.monotonic()
            typer.echo(f"{done / 1e9:.1f} of {total / 1e9:.1f} GB", err=True)

    quantization = GROUPS if weight_dtype is WeightDtype.INT8 else CHANNELS
    checkpoint = write_quantized(source, target, quantization, report)
    written = sum(checkpoint.stored_bytes(vision=vision) for vision in (True, False))
    typer.echo(f"wrote {target} ({written / 1e9:.2f} GB): {checkpoint.quantized_by}")
