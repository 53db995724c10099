"""`glm4v bench compare A B`: a table of ratios with their intervals, and a verdict for each."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.errors import InvalidRequest
from glm4v.process.extras import require

if TYPE_CHECKING:
    from bench.compare.verdict import Comparison

_SIDE = "A file of `bench serve` or `bench offline`, or a folder of them, a round each."
_WIDTH = 130


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help=_SIDE, exists=True)],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with A.", exists=True)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Whether B is faster than A, with 95 % confidence intervals.

    Ratios are of medians, B / A, and values are rounds: a file of `bench serve`, a row of a CSV
    file. With fewer than five a side there is no verdict; the interval of a latency is that of
    requests then, and leaves out what differs between rounds.
    """
    for package in ("scipy", "httpx"):
        require(package, "bench")
    from bench.compare.rounds import read_side
    from bench.compare.verdict import compare as compare_sides

    found = compare_sides(read_side(a), read_side(b))
    if not found:
        raise InvalidRequest(f"{a} and {b} have no metric in common")
    if json:
        typer.echo(json_format.dumps([asdict(each) for each in found]))
    else:
        _print(found)


def _print(found: "list[Comparison]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="B beside A")
    table.add_column("metric")
    for heading in ("A", "B", "values", "B / A", "95 % interval"):
        table.add_column(heading, justify="right")
    table.add_column("B is")
    for each in found:
        unit = "rounds" if each.of_rounds else "requests"
        table.add_row(
            each.metric,
            f"{each.a:.4g}",
            f"{each.b:.4g}",
            f"{each.counts[0]} and {each.counts[1]} {unit}",
            "-" if each.ratio is None else f"{each.ratio:.3f}",
            "-" if each.low is None else f"{each.low:.3f} to {each.high:.3f}",
            each.verdict,
        )
    console = Console(width=_WIDTH)
    console.print(table)
    if any(not each.of_rounds and each.low is not None for each in found):
        console.print(
            "Intervals of requests leave out what differs between rounds, so they have no verdict: "
            "measure each side five times, in turns, and compare the folders."
        )
