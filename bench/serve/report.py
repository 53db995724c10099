"""Reports of `glm4v bench serve`: a table, a CSV row and a plot."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.png import save_png
from bench.serve.measurement import Measurement
from bench.serve.summary import Spread, Summary
from glm4v.errors import InvalidRequest

_LATENCIES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "inter-token latency",
    "e2el": "end-to-end latency",
    "late": "lateness of this generator",
    "waited": "waited for a place in flight",
}
_WIDTH = 100


def print_report(summary: Summary, title: str) -> None:
    """Rates, failures, and a table of latencies in milliseconds."""
    console = Console(width=_WIDTH)
    table = Table(title=title)
    table.add_column("ms")
    for heading in Spread.__dataclass_fields__:
        table.add_column(heading, justify="right")
    for name, words in _LATENCIES.items():
        values = asdict(getattr(summary, name)).values()
        table.add_row(words, *("-" if value is None else f"{value:.1f}" for value in values))
    console.print(table)
    answered = summary.requests - sum(summary.failures.values())
    console.print(
        f"{answered} of {summary.requests} requests answered in {summary.duration_s:.1f} s: "
        f"{summary.requests_per_s:.2f} requests/s, {summary.tokens_per_s:.1f} output tokens/s"
    )
    if summary.goodput_per_s is not None:
        console.print(f"within all targets: {summary.goodput_per_s:.2f} requests/s")
    for code, count in summary.failures.items():
        console.print(f"failed with {code}: {count}")


def append_row(path: Path, summary: Summary, about: dict[str, Any]) -> None:
    """Append a row to a CSV file, after the header if it is new.

    An unknown value is an empty cell. Raises InvalidRequest for a file with other columns.
    """
    row = {**about, **_flat(summary)}
    try:
        with path.open("a+", encoding="utf-8", newline="") as file:
            file.seek(0)
            found = next(csv.reader(file), None)
            if found not in (None, list(row)):
                raise InvalidRequest(f"{path} has other columns; choose another file, or move it")
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if found is None:
                writer.writeheader()
            writer.writerow(row)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be written: {error}") from None


def _flat(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in asdict(summary).items():
        if name == "failures":
            row["failures"] = sum(value.values())
        elif isinstance(value, dict):
            row |= {f"{name}_{part}_ms": _round(each) for part, each in value.items()}
        else:
            row[name] = _round(value)
    return row


def _round(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def draw(measurements: Sequence[Measurement], title: str, path: Path) -> None:
    """Write a PNG: the latencies' distributions, and when each request came and ended.

    Needs matplotlib. Raises InvalidRequest if the file cannot be written.
    """
    from matplotlib.figure import Figure  # of the extra `bench`

    answered = [each for each in measurements if not each.error]
    drawing = Figure(figsize=(11, 4.5), layout="constrained")
    shares, course = drawing.subplots(1, 2)
    for name in ("ttft", "e2el"):
        values = sorted(getattr(each, f"{name}_s") for each in answered)
        heights = [(number + 1) / len(values) for number in range(len(values))]
        shares.step(values, heights, where="post", label=_LATENCIES[name])
    shares.set(xlabel="s", ylabel="share of requests", ylim=(0, 1), xlim=(0, None))
    shares.legend()
    for has_image in (False, True):
        chosen = [each for each in answered if each.has_image == has_image]
        course.scatter(
            [each.planned_s for each in chosen],
            [each.ttft_s or 0.0 for each in chosen],
            label="with an image" if has_image else "text",
            s=12,
        )
    course.set(xlabel="arrival, s", ylabel="time to first token, s", ylim=(0, None))
    course.legend()
    drawing.suptitle(title)
    save_png(drawing, path)
