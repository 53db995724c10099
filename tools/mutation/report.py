"""What became of the mutants of a chip, and what that says of those that were not tried.

`python -m tools.mutation.report [--seed N] FOLDER...`, each a folder of tools/mutate-npu.sh.
Counted are those of the random order of the seed up to the first that was not tried: mutants that
somebody chose would not stand for the others.
"""

import argparse
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tools.mutation.mutants import Mutant, Reach, in_random_order, read_mutants
from tools.mutation.trials import Outcome, Results

_Z = 1.959964  # of 95 %


@dataclass(frozen=True, slots=True)
class Stratum:
    """The mutants of one file."""

    file: str
    mutants: int
    tried: int
    caught: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of all mutants that would be caught, with its 95 % interval."""

    share: float
    low: float
    high: float


def estimate(strata: Iterable[Stratum]) -> Estimate:
    """From a random sample of each file.

    Files count by their mutants, not by those tried. The interval is Wilson's, for the number of
    trials of a plain random sample whose share would vary as much as this one does (its effective
    size). A file's variance is that of its share with one more trial of each kind, or a file all
    of whose few trials end alike would have none; what is tried of a file does not vary.
    """
    known = [each for each in strata if each.tried]
    total = sum(each.mutants for each in known)
    share = variance = 0.0
    for each in known:
        weight = each.mutants / total
        share += weight * each.caught / each.tried
        smooth = (each.caught + 1) / (each.tried + 2)
        untried = 1 - each.tried / each.mutants
        variance += weight**2 * untried * smooth * (1 - smooth) / each.tried
    if variance == 0:
        return Estimate(share, share, share)
    middle = (sum(each.caught for each in known) + 1) / (sum(each.tried for each in known) + 2)
    size = middle * (1 - middle) / variance
    centre = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = math.sqrt(share * (1 - share) / size + (_Z / (2 * size)) ** 2) * _Z / (1 + _Z**2 / size)
    return Estimate(share, centre - half, centre + half)


def strata_of(mutants: Iterable[Mutant], outcomes: dict[str, Outcome]) -> list[Stratum]:
    """The mutants of each file, and what became of them."""
    files: dict[str, list[Outcome | None]] = {}
    for mutant in mutants:
        files.setdefault(mutant.file, []).append(outcomes.get(mutant.key))
    return [
        Stratum(
            file,
            len(found),
            sum(each is not None for each in found),
            sum(each is not None and each.verdict != "survived" for each in found),
        )
        for file, found in sorted(files.items())
    ]


def report(folder: Path, seed: int) -> str:
    """The table, the estimate, and the mutants that no test caught."""
    mutants = read_mutants(folder, Reach.read(folder))
    outcomes = Results(folder / "results.jsonl").outcomes
    order = in_random_order(mutants, seed)
    sample = {each.key for each in takewhile(lambda each: each.key in outcomes, order)}
    counted = {key: outcome for key, outcome in outcomes.items() if key in sample}
    strata = strata_of(mutants, counted)
    lines = [f"{folder.name}:", "", "| file | mutants | tried | caught |", "|---|---|---|---|"]
    lines += [
        f"| `{each.file}` | {each.mutants} | {each.tried} | {each.caught} |" for each in strata
    ]
    totals = [
        sum(getattr(each, name) for each in strata) for name in ("mutants", "tried", "caught")
    ]
    lines.append(f"| all | {totals[0]} | {totals[1]} | {totals[2]} |")
    if totals[1]:
        found = estimate(strata)
        interval = f"{100 * found.low:.1f} to {100 * found.high:.1f} %"
        lines += ["", f"estimate for all: {100 * found.share:.1f} %, 95 % interval {interval}"]
    for mutant in mutants:
        outcome = outcomes.get(mutant.key)
        if outcome is not None and outcome.verdict != "caught":
            lines += ["", f"{outcome.verdict} {outcome.by}: {mutant.name}", mutant.change]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print one report after the other."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation.report")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("folder", nargs="+", type=Path)
    asked = parser.parse_args()
    sys.stdout.write("\n".join(report(folder.resolve(), asked.seed) for folder in asked.folder))


if __name__ == "__main__":
    main()
