"""Reports of a comparison of servers: a table for the terminal, a page with a plot."""

import platform
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from bench.peers import Load, Round
from glm4v.errors import InvalidRequest

COLUMNS = ("callers", "server", "tokens/s", "first token", "pauses", "ours / theirs")


def rows(results: Sequence[Round]) -> Iterator[tuple[str, ...]]:
    """Medians per server and concurrency, in the order of COLUMNS."""
    for concurrency in sorted({one.concurrency for one in results}):
        for name, (rate, first_s, pause_s, ratio) in medians(results, concurrency).items():
            times = f"{first_s:.2f} s", f"{pause_s:.2f} s"
            yield str(concurrency), name, f"{rate:.1f}", *times, f"{ratio:.2f}"


def medians(
    results: Sequence[Round], concurrency: int
) -> dict[str, tuple[float, float, float, float]]:
    """For each server: tokens/s, time to the first token, pauses, and paired ratio to the first."""
    rounds: dict[str, list[Round]] = {}
    for one in results:
        if one.concurrency == concurrency:
            rounds.setdefault(one.server, []).append(one)
    ours = next(iter(rounds.values()))
    return {
        name: (
            statistics.median(one.tokens_s for one in own),
            statistics.median(one.time_to_first_token_s for one in own),
            statistics.median(one.pause_s for one in own),
            statistics.median(a.tokens_s / b.tokens_s for a, b in zip(ours, own, strict=True)),
        )
        for name, own in rounds.items()
    }


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
        '"ours / theirs" is the median of paired ratios of tokens/s.',
        "",
        f"```sh\n{command}\n```",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---:|---|---:|---:|---:|---:|",
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
        rates = [medians(results, concurrency)[name][0] for concurrency in concurrencies]
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
