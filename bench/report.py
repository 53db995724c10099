"""Reports of measurements: a table and a plot."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from bench.engine import Figures
from bench.png import save_png

_PARTS = ("plan", "device", "sample", "publish")


def table(figures: Sequence[Figures], title: str) -> Table:
    """One row per point; the parts of a step are in milliseconds."""
    report = Table(title=title)
    for heading in ("dtype", "batch", "context", "prefill tok/s", "decode tok/s", "step ms"):
        report.add_column(heading, justify="left" if heading == "dtype" else "right")
    for heading in (*_PARTS, "read GB/s", "roofline", "host load"):
        report.add_column(heading, justify="right")
    for at in figures:
        report.add_row(
            at.dtype,
            str(at.batch),
            str(at.context),
            f"{at.prefill_tokens_s:.0f}",
            f"{at.decode_tokens_s:.1f}",
            f"{1e3 * at.step_s:.2f}",
            *(f"{1e3 * part:.2f}" for part in at.parts),
            f"{at.read_bytes_s / 1e9:.1f}",
            f"{at.roofline_share:.0%}",
            "-" if at.host_load is None else f"{at.host_load:.2f}",
        )
    return report


def plot(figures: Sequence[Figures], title: str, path: Path) -> None:
    """Write a PNG: decode speed by batch size, and the parts of a step.

    Needs matplotlib. Raises InvalidRequest if the file cannot be written.
    """
    from matplotlib.figure import Figure  # of the extra `bench`

    drawing = Figure(figsize=(11, 4.5), layout="constrained")
    speed, parts = drawing.subplots(1, 2)
    for dtype, context in dict.fromkeys((at.dtype, at.context) for at in figures):
        line = [at for at in figures if (at.dtype, at.context) == (dtype, context)]
        speed.plot(
            [at.batch for at in line],
            [at.decode_tokens_s for at in line],
            marker="o",
            label=f"{dtype}, context {context}",
        )
    speed.set(xlabel="sequences", ylabel="decoded tokens/s", ylim=(0, None))
    speed.legend()
    labels = [f"{at.dtype}\n{at.batch} x {at.context}" for at in figures]
    bottoms = [0.0] * len(figures)
    for number, name in enumerate(_PARTS):
        heights = [1e3 * at.parts[number] for at in figures]
        parts.bar(labels, heights, bottom=bottoms, label=name)
        bottoms = [low + height for low, height in zip(bottoms, heights, strict=True)]
    ideal = [1e3 * at.step_bytes / at.read_bytes_s for at in figures]
    parts.plot(labels, ideal, "k_", markersize=16, label="memory roofline")
    parts.set(ylabel="step, ms")
    parts.tick_params(axis="x", rotation=60, labelsize=7)
    parts.legend()
    drawing.suptitle(title)
    save_png(drawing, path)
