"""What rounding may do to log-probabilities, by dtype; docs/precision.md has the measurements."""

from collections.abc import Iterable
from dataclasses import dataclass

from glm4v.errors import InvalidRequest
from precision.agreement import Agreement, Distances


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The most that distances may be, as differences of natural logarithms."""

    mean: float
    largest: float


TOLERANCES = {
    "float32": Tolerance(mean=1e-4, largest=1e-3),
    "float16": Tolerance(mean=0.01, largest=0.25),
    "bfloat16": Tolerance(mean=0.08, largest=2.0),  # 3 bits fewer
    "int8": Tolerance(mean=0.08, largest=2.0),  # of weights; arithmetic stays what it is
    "int8-channel": Tolerance(mean=0.08, largest=2.0),
}


def tolerance_of(roundings: Iterable[str]) -> Tolerance:
    """That of the coarsest of these dtypes. Raises InvalidRequest for one that has none."""
    roundings = sorted(roundings)
    if unknown := [each for each in roundings if each not in TOLERANCES]:
        raise InvalidRequest(
            f"no tolerance is known for {', '.join(unknown)}; set --tolerance-mean and "
            "--tolerance-max"
        )
    return max((TOLERANCES[each] for each in roundings), key=lambda each: each.mean)


def excesses(agreement: Agreement, tolerance: Tolerance) -> list[str]:
    """What exceeds the tolerance, in words; empty if the candidate agrees."""
    found = [
        *_excesses("prefill", agreement.prefill, tolerance),
        *_excesses("decode", agreement.decode, tolerance),
    ]
    allowed = 2 * tolerance.largest  # the one token rounded down, the other one up
    for image in agreement.diverged:
        if not image.margin <= allowed:
            found.append(
                f"{image.name}: token {image.divergence} differs, which the reference prefers by "
                f"{image.margin:.2g}; rounding explains {allowed:.2g}"
            )
    return found


def _excesses(way: str, distances: Distances, tolerance: Tolerance) -> list[str]:
    pairs = (
        ("mean", distances.mean, tolerance.mean),
        ("largest", distances.largest, tolerance.largest),
    )
    return [
        f"{way}: the {name} difference of log-probabilities is {value:.2g}, {most:.2g} is allowed"
        for name, value, most in pairs
        if not value <= most  # not a number is no agreement
    ]
