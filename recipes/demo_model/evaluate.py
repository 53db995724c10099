"""Scores the demo model through the running system: `python -m recipes.demo_model.evaluate`.

Exact match, greedy, on pictures never trained on. Two controls ask the naming questions about an
empty picture and about the picture of another case, where only chance is left.
"""

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from glm4v.local.cluster import ClusterSettings, LocalCluster
from recipes.demo_model.asking import Asked, ask_with_bar
from recipes.demo_model.composer import compose
from recipes.demo_model.evaluation import SKILLS, Case, evaluation
from recipes.demo_model.scene import Scene
from recipes.demo_model.scoring import table, write_card

CONTROLS = ("control: empty picture", "control: another picture")

_MODEL = Path("glm4v/demo_model")


def cases_of(skill: str, count: int) -> list[Case]:
    """The first `count` cases of a skill, or of a control."""
    if skill not in CONTROLS:
        return list(evaluation(skill, count))
    cases = list(evaluation("naming", count))
    if skill == "control: empty picture":
        return [
            replace(case, skill=skill, scene=_empty(number)) for number, case in enumerate(cases)
        ]
    scenes = [case.scene for case in cases]
    shift = count // 2 | 1  # another thing, in the other language's turn
    return [
        replace(case, skill=skill, scene=scenes[(number + shift) % count])
        for number, case in enumerate(cases)
    ]


def _empty(number: int) -> Scene:
    return compose(random.Random(f"empty {number}"), "held_out", "blank")


async def evaluate(model: Path, cases: list[Case]) -> list[Asked]:
    """Start the system, ask all, stop it."""
    async with LocalCluster(ClusterSettings(model)) as cluster:
        return await ask_with_bar(cluster.target, cases, "asking")


def main(
    count: Annotated[int, typer.Option(min=2, help="Cases of each skill.")] = 500,
    naming: Annotated[
        int, typer.Option(min=2, help="Cases of naming; 500 are all things in both languages.")
    ] = 500,
    model: Annotated[Path, typer.Option(help="The checkpoint to start.")] = _MODEL,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A running gateway instead.")
    ] = None,
    skill: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    wrong: Annotated[int, typer.Option(help="Wrong answers to show of each skill.")] = 0,
    card: Annotated[Path | None, typer.Option(help="Write the table into this model card.")] = None,
) -> None:
    """Ask the demo model about pictures it has never seen, and print how often it is right."""
    skills = skill or [*SKILLS, *CONTROLS]
    unknown = set(skills) - {*SKILLS, *CONTROLS}
    if unknown:
        raise typer.BadParameter(f"no such skill: {', '.join(unknown)}; there are {SKILLS}")
    counts = {"naming": naming}
    cases = [case for name in skills for case in cases_of(name, counts.get(name, count))]
    work = ask_with_bar(server, cases, "asking") if server else evaluate(model, cases)
    asked = asyncio.run(work)
    typer.echo(table(asked))
    for name in skills:
        missed = [each for each in asked if each.case.skill == name and not each.is_right()]
        for each in missed[:wrong]:
            typer.echo(f"{name}: {each.case.turns[-1]} -> {each.texts[-1]!r}")
    if card is not None:
        write_card(card, table(asked))


if __name__ == "__main__":
    typer.run(main)
