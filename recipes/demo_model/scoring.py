"""The table of scores: how often each skill was right, in each language, beside its target."""

from collections.abc import Sequence
from pathlib import Path

from recipes.demo_model.asking import Asked

TARGETS = {  # percent; second turns are compared with the first turns before them
    "naming": 80,
    "colours": 95,
    "counting": 85,
    "position": 90,
    "numbers": 90,
    "words": 80,
}
_BEGIN, _END = "<!-- scores -->", "<!-- end of scores -->"


def table(asked: Sequence[Asked]) -> str:
    """A Markdown table, a line for each skill in the order it was asked."""
    lines = [
        "| skill | samples | right | English | Chinese | target |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for skill in dict.fromkeys(each.case.skill for each in asked):
        mine = [each for each in asked if each.case.skill == skill]
        if any(len(each.texts) > 1 for each in mine):
            lines.append(_line(f"first turn of {skill}", mine, 0))
        lines.append(_line(skill, mine, -1))
    return "\n".join(lines)


def write_card(card: Path, scores: str) -> None:
    """Put the table between its two marks. Raises ValueError for a card without them."""
    text = card.read_text(encoding="utf-8")
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{card} has no place for the scores: {_BEGIN} … {_END}")
    before, rest = text.split(_BEGIN, 1)
    after = rest.split(_END, 1)[1]
    card.write_text(f"{before}{_BEGIN}\n{scores}\n{_END}{after}", encoding="utf-8")


def _line(name: str, asked: Sequence[Asked], turn: int) -> str:
    shares = [
        _share([each.is_right(turn) for each in asked if each.case.language in languages])
        for languages in (("en", "zh"), ("en",), ("zh",))
    ]
    target = f"≥ {TARGETS[name]} %" if name in TARGETS else ""
    return f"| {name} | {len(asked)} | {' | '.join(shares)} | {target} |"


def _share(right: Sequence[bool]) -> str:
    return f"{100 * sum(right) / len(right):.1f} %" if right else ""
