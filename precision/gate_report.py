"""A comparison of two backends as a table and as JSON."""

import dataclasses
from typing import Any

from rich.table import Table

from precision.agreement import Agreement, Distances
from precision.recording import Recording
from precision.tolerance import Tolerance


def table(agreement: Agreement, tolerance: Tolerance) -> Table:
    """The figures beside what is allowed."""
    drawn = Table("", "measured", "allowed")
    images, steps = len(agreement.images), agreement.steps
    equal = images - len(agreement.diverged)
    drawn.add_row("equal answers", f"{equal} of {images}", "")
    drawn.add_row("same best token", f"{agreement.same_best} of {steps} steps", "")
    for way, distances in (("prefill", agreement.prefill), ("decode", agreement.decode)):
        drawn.add_section()
        for name, value, allowed in _figures(distances, tolerance):
            drawn.add_row(f"|Δ log-probability|, {way}, {name}", f"{value:.2e}", allowed)
    return drawn


def divergences(agreement: Agreement) -> list[str]:
    """A line for each image whose answers differ."""
    return [
        f"{image.name}: differs from token {image.divergence} on, by a preference of "
        f"{image.margin:.2e}: {image.reference!r} / {image.candidate!r}"
        for image in agreement.diverged
    ]


def document(
    reference: Recording,
    candidate: Recording,
    agreement: Agreement,
    tolerance: Tolerance,
    excesses: list[str],
) -> dict[str, Any]:
    """All of it for JSON; distances of single steps are left out."""
    return {
        "passed": not excesses,
        "excesses": excesses,
        "tolerance": dataclasses.asdict(tolerance),
        "reference": {"backend": reference.backend, "device": reference.description},
        "candidate": {"backend": candidate.backend, "device": candidate.description},
        "images": len(agreement.images),
        "equal_answers": len(agreement.images) - len(agreement.diverged),
        "steps": agreement.steps,
        "same_best_token": agreement.same_best,
        "prefill": dataclasses.asdict(agreement.prefill),
        "decode": dataclasses.asdict(agreement.decode),
        "diverged": [
            {
                "image": image.name,
                "token": image.divergence,
                "margin": image.margin,
                "reference": image.reference,
                "candidate": image.candidate,
            }
            for image in agreement.diverged
        ],
    }


def _figures(distances: Distances, tolerance: Tolerance) -> list[tuple[str, float, str]]:
    return [
        ("mean", distances.mean, f"{tolerance.mean:g}"),
        ("median", distances.p50, ""),
        ("99th percentile", distances.p99, ""),
        ("largest", distances.largest, f"{tolerance.largest:g}"),
    ]
