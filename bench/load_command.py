"""`glm4v bench load`: from a worker's start until it is ready, and the memory that it takes."""

import json as json_format
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.machine import HostLoad, SideProcess
from glm4v.host.temporary_folder import TemporaryFolder

if TYPE_CHECKING:
    from bench.load import Reading, Start
    from glm4v.checkpoint.checkpoint import Checkpoint

_MIB = 2**20


class Kind(StrEnum):
    """Of worker."""

    LANGUAGE = "language"
    VISION = "vision"


@dataclass(frozen=True, slots=True)
class Round:
    """What was measured in one turn."""

    reading: "Reading"
    starts: dict[str, "Start"]  # by weight dtype
    host_load: float | None  # cores that other processes used meanwhile, the worker's included


def load(
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A checkpoint; else a random one, made for this."),
    ] = None,
    layers: Annotated[
        int, typer.Option(min=1, help="Of that one, each as wide as GLM-4V-9B's: 0.47 GB.")
    ] = 5,
    kind: Annotated[Kind, typer.Option(help="Of worker.")] = Kind.LANGUAGE,
    weight_dtype: Annotated[
        list[str] | None, typer.Option(help="May be repeated. Default: bfloat16 and int8.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Seconds until a worker is ready beside those of reading its bytes, and its memory.

    The checkpoint is in the page cache. Each round reads the worker's bytes by plain calls, then
    starts a worker of each weight dtype.
    """
    from glm4v.checkpoint.checkpoint import Checkpoint

    if weight_dtype is None:
        weight_dtype = ["bfloat16", "int8"] if kind is Kind.LANGUAGE else ["bfloat16"]
    with TemporaryFolder("load") as folder:
        if model is None:
            model = folder / "wide"
            _write(model, layers)
        checkpoint = Checkpoint.open(model)
        measured = _measure(checkpoint, kind, weight_dtype, rounds, folder)
    size = checkpoint.stored_bytes(vision=kind is Kind.VISION)
    if json:
        typer.echo(json_format.dumps({"bytes": size, "rounds": [asdict(one) for one in measured]}))
    else:
        typer.echo(report(measured, size))


def _write(model: Path, layers: int) -> None:
    from bench.model import write_wide

    with SideProcess(1) as helper:  # its memory is given back with the process
        helper.call(write_wide, model, layers)


def _measure(
    checkpoint: "Checkpoint", kind: Kind, weight_dtypes: Sequence[str], rounds: int, folder: Path
) -> list[Round]:
    from bench.load import Workers, read, weight_ranges
    from glm4v.local.redis_server import RedisServer

    ranges = weight_ranges(checkpoint, vision=kind is Kind.VISION)
    measured = []
    with RedisServer(folder / "redis") as redis, SideProcess(1) as reader:
        workers = Workers(kind, checkpoint.directory, redis.url, folder)
        reader.call(read, ranges)  # into the page cache
        workers.start(weight_dtypes[0], 0)  # and everything that it imports
        size = sum(end - start for _, start, end in ranges)
        for _ in range(rounds):
            load = HostLoad()
            reading = reader.call(read, ranges)
            starts = {dtype: workers.start(dtype, size) for dtype in weight_dtypes}
            measured.append(Round(reading, starts, load.cores()))
    return measured


def report(rounds: Sequence[Round], size: int) -> str:
    """Two tables in Markdown: medians, and ratios within rounds with their spread."""
    kept = [one.reading.kept_s for one in rounds]
    buffer = [one.reading.buffer_s for one in rounds]
    lines = [
        f"{size / 1e9:.2f} GB; read into memory that is kept in {_middle(kept)} s, into one buffer "
        f"in {_middle(buffer)} s",
        "",
        "| weights | ready, s | imports, s | the rest, s | ready / read | the rest / read |",
        "|---|---:|---:|---:|---|---|",
    ]
    for dtype in rounds[0].starts:
        starts = [one.starts[dtype] for one in rounds]
        ready = [start.ready_s for start in starts]
        imports = [start.imports_s for start in starts]
        rest = [start.ready_s - start.imports_s for start in starts]
        lines.append(
            f"| {dtype} | {_middle(ready)} | {_middle(imports)} | {_middle(rest)} "
            f"| {_ratios(ready, kept)} | {_ratios(rest, kept)} |"
        )
    lines += [
        "",
        "| weights | anonymous memory held, MiB | of the first | most while loading, MiB "
        "| share of files included, MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    first = [one.starts[next(iter(one.starts))].held for one in rounds]
    for dtype in rounds[0].starts:
        starts = [one.starts[dtype] for one in rounds]
        held = [start.held for start in starts]
        lines.append(
            f"| {dtype} | {_mib(held)} | {_ratios(held, first)} "
            f"| {_mib([start.peak for start in starts])} "
            f"| {_mib([start.pss for start in starts])} |"
        )
    return "\n".join(lines)


def _middle(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f}"


def _mib(sizes: Sequence[int]) -> str:
    return f"{statistics.median(sizes) / _MIB:.0f}"


def _ratios(values: Sequence[float], others: Sequence[float]) -> str:
    """The median of the ratios within rounds, and the least and greatest."""
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
