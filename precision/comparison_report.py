"""A comparison in words, as a table, and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from precision.comparison import FEW, Comparison, Verdict
from precision.scores import JudgeRecord, Pair

_WIDTH = 120

Pairs = Sequence[Pair]


def verdict_line(found: Comparison, pairs: Pairs, judge: JudgeRecord) -> str:
    """The verdict in one line, with what it rests on and what speaks against it."""
    return "; ".join([_verdict(found), *warnings(found, pairs, judge)])


def warnings(found: Comparison, pairs: Pairs, judge: JudgeRecord) -> list[str]:
    """What a reader has to know before using the verdict."""
    said = []
    if found.images < FEW:
        said.append(f"{found.images} images are fewer than {FEW}: the interval is too narrow")
    cut_first, cut_second = _cut(pairs)
    if cut_first or cut_second:
        both = (each for pair in pairs for each in (pair.first, pair.second))
        read = median(each.judged for each in both if each.is_cut)
        said.append(
            f"{cut_first} captions of A and {cut_second} of B were not read to the end, only their "
            f"first {read:.0f} characters or so: the rest is not judged (--parts judges it)"
        )
    return [*said, judge.warning] if judge.warning else said


def report(
    found: Comparison, pairs: Pairs, judge: JudgeRecord, names: tuple[str, str]
) -> dict[str, Any]:
    """For JSON."""
    return {
        "a": names[0],
        "b": names[1],
        "judge": judge.model_dump(),
        **asdict(found),
        "text": verdict_line(found, pairs, judge),
        "warnings": warnings(found, pairs, judge),
        "most_unseen": found.most_unseen if found.verdict is Verdict.IDENTICAL else None,
        "captions": {
            name: {"a": first.model_dump(), "b": second.model_dump()}
            for name, first, second in pairs
        },
    }


def print_comparison(
    found: Comparison, pairs: Pairs, judge: JudgeRecord, names: tuple[str, str]
) -> None:
    """A table, and the verdict below it."""
    table = Table(title=f"A {names[0]}, B {names[1]}", show_header=False)
    for name, value in rows(found, pairs):
        table.add_row(name, value)
    console = Console(width=_WIDTH)
    console.print(table)
    console.print(f"judge: {judge}", markup=False, highlight=False, soft_wrap=True)
    line = verdict_line(found, pairs, judge)
    console.print(f"verdict: {line}", markup=False, highlight=False, soft_wrap=True)


def rows(found: Comparison, pairs: Pairs) -> list[tuple[str, str]]:
    """Names and figures, of the table and of the page."""
    cut_first, cut_second = _cut(pairs)
    return [
        ("images", f"{found.images}"),
        ("mean of A", f"{found.first_mean:.4f}"),
        ("mean of B", f"{found.second_mean:.4f}"),
        ("B - A", f"{found.difference:+.4f}"),
        ("95 % interval", f"{found.low:+.4f} to {found.high:+.4f}"),
        ("B better, tied, worse", f"{found.wins}, {found.ties}, {found.losses}"),
        ("captions not read whole", f"{cut_first} of A, {cut_second} of B"),
    ]


def _cut(pairs: Pairs) -> tuple[int, int]:
    return sum(pair.first.is_cut for pair in pairs), sum(pair.second.is_cut for pair in pairs)


def _verdict(found: Comparison) -> str:
    interval = f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
    tolerance = f"tolerance {found.tolerance:g}"
    match found.verdict:
        case Verdict.IDENTICAL:
            return (
                f"no difference at all: all {found.images} images have the same score, so that at "
                f"most {found.most_unseen:.1%} of all images may have another one (rule of three)"
            )
        case Verdict.EQUAL:
            return f"equal within the {tolerance}: B - A is {found.difference:+.4f} ({interval})"
        case Verdict.UNDECIDED:
            return (
                f"undecided: B - A is {found.difference:+.4f} ({interval}), which holds 0 and more "
                f"than the {tolerance}; more images decide it"
            )
        case Verdict.BETTER | Verdict.WORSE as side:
            return f"B is {side}: B - A is {found.difference:+.4f} ({interval}, {tolerance})"
