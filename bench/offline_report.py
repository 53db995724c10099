"""Reports of `glm4v bench offline`: a table and a plot."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.offline import Figures
from bench.png import save_png

_WIDTH = 120


def print_table(figures: Sequence[Figures], title: str) -> None:
    """One row per batch size."""
    table = Table(title=title)
    for heading in ("batch", "prompt", "images ms", "prefill ms", "p50 ms", "p90 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for heading in ("total ms", "tokens/s", "roofline"):
        table.add_column(heading, justify="right")
    for at in figures:
        table.add_row(
            str(at.batch),
            str(at.prompt_tokens),
            f"{at.encode_ms:.1f}",
            f"{at.prefill_ms:.1f}",
            f"{at.decode_p50_ms:.2f}",
            f"{at.decode_p90_ms:.2f}",
            f"{at.decode_p99_ms:.2f}",
            f"{at.total_ms:.0f}",
            f"{at.tokens_per_s:.1f}",
            "-" if at.roofline_share is None else f"{at.roofline_share:.0%}",
        )
    Console(width=_WIDTH).print(table)


def draw(figures: Sequence[Figures], title: str, path: Path) -> None:
    """Write a PNG: tokens per second, and the parts of a batch's time.

    Needs matplotlib. Raises InvalidRequest if the file cannot be written.
    """
    from matplotlib.figure import Figure  # of the extra `bench`

    drawing = Figure(figsize=(11, 4.5), layout="constrained")
    speed, steps = drawing.subplots(1, 2)
    batches = [at.batch for at in figures]
    speed.plot(batches, [at.tokens_per_s for at in figures], marker="o")
    speed.set(xlabel="questions at once", ylabel="tokens/s, images included", ylim=(0, None))
    for name in ("p50", "p90", "p99"):
        heights = [getattr(at, f"decode_{name}_ms") for at in figures]
        steps.plot(batches, heights, marker="o", label=name)
    steps.set(xlabel="questions at once", ylabel="decode step, ms", ylim=(0, None))
    steps.legend()
    drawing.suptitle(title)
    save_png(drawing, path)
