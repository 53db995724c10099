"""`glm4v bench products`: the CPU's matrix products alone, by rows and bits of a weight."""

import json as json_format
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.errors import InvalidRequest
from glm4v.host.cpus import usable_cpus

if TYPE_CHECKING:
    import torch

    from glm4v.device.cpu.kernels import KernelLinear, Kernels

_LEAST_S = 0.05  # of a measurement: several passes over all matrices where one is shorter
_BITS = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Rate:
    """Weights a second, median of some measurements in turns."""

    level: str
    rows: int
    bits: int
    weights_s: float


def products(
    rows: Annotated[
        list[int] | None,
        typer.Option(min=1, help="May be repeated. Default: 1, 4, 10, 16, 64, 256."),
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(help="Compiled with -march of it; may be repeated. Default: native."),
    ] = None,
    outputs: Annotated[int, typer.Option(min=1, help="Of each matrix.")] = 5120,
    inputs: Annotated[int, typer.Option(min=1, help="Of each matrix.")] = 768,
    matrices: Annotated[
        int, typer.Option(min=1, help="Of each kind: together larger than the caches.")
    ] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="The median is shown.")] = 9,
    threads: Annotated[int, typer.Option(help="0: one for each core.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Weights a second of products with 8-, 16- and 32-bit weights, the three in turns.

    Needs a C++ compiler.
    """
    rates = [
        rate
        for name in level or ["native"]
        for rate in _measure(
            name, rows or [1, 4, 10, 16, 64, 256], (outputs, inputs), matrices, rounds, threads
        )
    ]
    if json:
        typer.echo(json_format.dumps([asdict(rate) for rate in rates]))
    else:
        typer.echo(table(rates))


def table(rates: Sequence[Rate]) -> str:
    """In Markdown: thousand millions of weights a second."""
    lines = [
        "| code | rows | 8 bits | 16 bits | 32 bits | 8 / 16 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    found = {(rate.level, rate.rows, rate.bits): rate.weights_s for rate in rates}
    for name, rows in dict.fromkeys((rate.level, rate.rows) for rate in rates):
        few, half, full = (found[name, rows, bits] for bits in _BITS)
        lines.append(
            f"| {name} | {rows} | {few / 1e9:.2f} | {half / 1e9:.2f} | {full / 1e9:.2f} "
            f"| {few / half:.2f} |"
        )
    return "\n".join(lines)


def _measure(
    level: str,
    rows: Sequence[int],
    shape: tuple[int, int],
    matrices: int,
    rounds: int,
    threads: int,
) -> list[Rate]:
    import torch

    kernels = _kernels(level)
    kernels.set_num_threads(threads or usable_cpus())
    sets = {bits: _matrices(kernels, bits, shape, matrices) for bits in _BITS}
    weights = shape[0] * shape[1] * matrices
    rates = []
    for count in rows:
        x = torch.randn(count, shape[1])
        seconds: dict[int, list[float]] = {bits: [] for bits in _BITS}
        for _ in range(rounds):
            for bits, linears in sets.items():
                seconds[bits].append(_seconds(linears, x))
        rates += [
            Rate(level, count, bits, weights / statistics.median(taken))
            for bits, taken in seconds.items()
        ]
    return rates


def _kernels(level: str) -> "Kernels":
    from glm4v.device.cpu.kernels import Kernels, open_kernels
    from glm4v.device.cpu.kernels.loading import load_compiled
    from glm4v.errors import Unavailable

    try:
        found = open_kernels() if level == "native" else Kernels(load_compiled([f"-march={level}"]))
    except Unavailable as error:
        raise InvalidRequest(f"--level {level}: {error}") from None
    if found is None:
        raise InvalidRequest("the kernels cannot be loaded; the log says why")
    return found


def _matrices(
    kernels: "Kernels", bits: int, shape: tuple[int, int], count: int
) -> list["KernelLinear"]:
    import torch

    from glm4v.checkpoint.quantized import quantize
    from glm4v.device.cpu.kernels import KernelLinear

    weight = torch.randn(shape)
    matrix = quantize(weight) if bits == 8 else weight
    return [KernelLinear(kernels, matrix, bits=bits) for _ in range(count)]


def _seconds(linears: Sequence["KernelLinear"], x: "torch.Tensor") -> float:
    """Of one pass over all matrices."""
    passes, start = 0, time.perf_counter()
    while passes == 0 or time.perf_counter() - start < _LEAST_S:
        for linear in linears:
            linear(x)
        passes += 1
    return (time.perf_counter() - start) / passes
