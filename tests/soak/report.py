"""What a soak saw: a table, the samples as CSV, and a plot."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.soak.gauges import Sample
from tests.soak.slope import Trend, trend

_TOLERANCES = {"resident_bytes": 0.03, "descriptors": 0.02, "threads": 0.02}
_UNITS = {"resident_bytes": (1e6, "resident memory, MB"), "descriptors": (1, "descriptors")}


def trends(samples: Mapping[str, Sequence[Sample]]) -> dict[tuple[str, str], Trend]:
    """By process and gauge."""
    return {
        (name, gauge): trend(
            [sample.at_s for sample in seen], [getattr(sample, gauge) for sample in seen], tolerance
        )
        for name, seen in samples.items()
        for gauge, tolerance in _TOLERANCES.items()
    }


def write_csv(samples: Mapping[str, Sequence[Sample]], path: Path) -> None:
    """One line for each look."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["process", "seconds", *_TOLERANCES])
        for name, seen in samples.items():
            for at in seen:
                figures = (getattr(at, gauge) for gauge in _TOLERANCES)
                writer.writerow([name, f"{at.at_s:.1f}", *figures])


def plot(samples: Mapping[str, Sequence[Sample]], title: str, path: Path) -> None:
    """Memory above, descriptors below, over minutes."""
    drawing = Figure(figsize=(10, 7), layout="constrained")
    for axes, (gauge, (unit, label)) in zip(
        drawing.subplots(len(_UNITS), 1, sharex=True), _UNITS.items(), strict=True
    ):
        for name, seen in samples.items():
            minutes = [sample.at_s / 60 for sample in seen]
            axes.plot(minutes, [getattr(sample, gauge) / unit for sample in seen], label=name)
        axes.set(ylabel=label, xlabel="minutes", ylim=(0, None))
        axes.legend(loc="upper right")
    drawing.suptitle(title)
    drawing.savefig(path, dpi=110, format="png")
