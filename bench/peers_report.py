"""Reports of a comparison of servers: a table for the terminal, a page with a plot."""

import math
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from bench.peers import Load, Round
from glm4v.errors import InvalidRequest

COLUMNS = (
    "callers",
    "server",
    "tokens/s",
    "first token",
    "pauses",
    "tokens/s, ours / theirs",
    "first token, ours / theirs",
    "pauses, ours / theirs",
)


def rows(results: Sequence[Round]) -> Iterator[tuple[str, ...]]:
    """Medians per server and concurrency, in the order of COLUMNS."""
    for concurrency in sorted({one.concurrency for one in results}):
        for name, own in medians(results, concurrency).items():
            times = f"{own.time_to_first_token_s:.2f} s", f"{own.pause_s:.3f} s"
            ratios = (str(ratio) for ratio in own.ratios)
            yield str(concurrency), name, f"{own.tokens_s:.1f}", *times, *ratios


class Ratio(NamedTuple):
    """Of the rounds of two servers, paired."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


class Medians(NamedTuple):
    """Of a server's rounds."""

    tokens_s: float
    time_to_first_token_s: float
    pause_s: float
    ratios: tuple[Ratio, Ratio, Ratio]  # of the first server's figures to these, in that order


def medians(results: Sequence[Round], concurrency: int) -> dict[str, Medians]:
    """For each server the medians of its rounds."""
    rounds: dict[str, list[Round]] = {}
    for one in results:
        if one.concurrency == concurrency:
            rounds.setdefault(one.server, []).append(one)
    ours = [_figures(one) for one in next(iter(rounds.values()))]
    found = {}
    for name, own in rounds.items():
        theirs = [_figures(one) for one in own]
        paired = zip(*(map(_divide, a, b) for a, b in zip(ours, theirs, strict=True)), strict=True)
        tokens, first, pause = (
            Ratio(statistics.median(each), min(each), max(each)) for each in paired
        )
        tokens_s, first_s, pause_s = map(statistics.median, zip(*theirs, strict=True))
        found[name] = Medians(tokens_s, first_s, pause_s, (tokens, first, pause))
    return found


def _figures(one: Round) -> tuple[float, float, float]:
    return one.tokens_s, one.time_to_first_token_s, one.pause_s


def _divide(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.nan  # no pauses: answers of one token


def table(results: Sequence[Round], load: Load) -> Table:
    """The table for the terminal."""
    shown = Table(title=load.name)
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column == "server" else "right")
    for row in rows(results):
        shown.add_row(*row)
    return shown


def write_page(results: Sequence[Round], load: Load, rounds: int, path: Path) -> None:
    """Write PATH.md and PATH.png.

    Needs matplotlib. Raises InvalidRequest when the files cannot be written.
    """
    plotted = path.with_suffix(".png")
    command = shlex.join(["glm4v", *sys.argv[1:]])
    lines = [
        f"# {load.name}",
        "",
        f"{time.strftime('%Y-%m-%d')}, {_machine()}; {rounds} rounds of each server in turns,",
        'medians; 99 of 100 pauses between two tokens are shorter than "pauses";',
        '"ours / theirs" is the median of the ratios of paired rounds (the least to the most).',
        "",
        f"```sh\n{command}\n```",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in rows(results)),
        "",
        f"![tokens/s by callers]({plotted.name})",
        "",
    ]
    try:
        path.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
        _plot(results, load, plotted)
    except OSError as error:
        raise InvalidRequest(f"{error.filename} cannot be written: {error.strerror}") from None


def _plot(results: Sequence[Round], load: Load, path: Path) -> None:
    from matplotlib.figure import Figure  # of the extra `bench`

    concurrencies = sorted({one.concurrency for one in results})
    drawing = Figure(figsize=(7, 4), layout="tight")
    axes = drawing.subplots()
    for name in dict.fromkeys(one.server for one in results):
        rates = [medians(results, concurrency)[name].tokens_s for concurrency in concurrencies]
        axes.plot(concurrencies, rates, marker="o", label=name)
    axes.set(xlabel="callers", ylabel="tokens/s", title=load.name)
    axes.set_ylim(bottom=0)
    axes.legend()
    drawing.savefig(path, dpi=120)


def _machine() -> str:
    """The CPU's name, where the system tells."""
    names = [
        line.partition(":")[2].strip()
        for line in _cpuinfo().splitlines()
        if line.startswith("model name")
    ]
    return f"{len(names) or '?'} × {names[0] if names else platform.machine()}"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""  # not Linux
