"""Whether precision and ranks change answers: `python -m recipes.demo_model.agreement`.

The evaluation set is asked of the system in float32 on one rank, then in other precisions and on
several ranks. An answer may differ only where the two best tokens were within rounding of each
other. In bfloat16 a logit of 16 to 32 is rounded by up to 1/16 and sums of rounded values by some
times that, in float16 by an eighth of it, in float32 by next to nothing; the bounds below are
chosen with that in mind, not measured.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from glm4v.local.cluster import ClusterSettings, LocalCluster
from recipes.demo_model.asking import Asked, ask_with_bar
from recipes.demo_model.evaluate import cases_of
from recipes.demo_model.evaluation import SKILLS, Case

_MARGINS = {"float32": 1e-3, "float16": 0.125, "bfloat16": 1.0, "int8": 1.0}


@dataclass(frozen=True)
class Variant:
    """A way to compute the same answers."""

    dtype: str
    ranks: int
    weight_dtype: str = "auto"

    @property
    def name(self) -> str:
        """For the table."""
        weights = "" if self.weight_dtype == "auto" else f", weights {self.weight_dtype}"
        return f"{self.dtype}{weights}, {self.ranks} rank{'s' if self.ranks > 1 else ''}"

    @property
    def margin(self) -> float:
        """What rounding may decide."""
        return _MARGINS["int8" if self.weight_dtype == "int8" else self.dtype]

    @property
    def environment(self) -> Mapping[str, str]:
        """Settings of the processes."""
        return {
            "GLM4V_TENSOR_PARALLEL": str(self.ranks),
            "GLM4V_WEIGHT_DTYPE": self.weight_dtype,
        }


REFERENCE = Variant("float32", 1)
VARIANTS = (
    Variant("float32", 2),
    Variant("float32", 4),
    Variant("float32", 1, "bfloat16"),
    Variant("float32", 1, "int8"),
    Variant("float16", 1),
    Variant("bfloat16", 1),
    Variant("bfloat16", 2),
    Variant("bfloat16", 4),
)


async def answers(model: Path, cases: list[Case], variant: Variant) -> list[Asked]:
    """Every case asked of a system that computes so."""
    settings = ClusterSettings(model, dtype=variant.dtype, environment=variant.environment)
    async with LocalCluster(settings) as cluster:
        return await ask_with_bar(cluster.target, cases, variant.name)


def margin_where_they_part(reference: Asked, other: Asked) -> float | None:
    """How far apart the two best tokens were where the answers part; None where they are equal.

    Where an earlier turn was answered otherwise the last ones cannot be compared: 0.
    """
    if reference.texts[:-1] != other.texts[:-1]:
        return 0.0
    pairs = zip(reference.token_ids, other.token_ids, reference.margins, strict=False)
    return next((margin for mine, theirs, margin in pairs if mine != theirs), None)


def line(variant: Variant, reference: list[Asked], others: list[Asked]) -> str:
    """One row of the table."""
    parted = [
        margin
        for mine, theirs in zip(reference, others, strict=True)
        if (margin := margin_where_they_part(mine, theirs)) is not None
    ]
    beyond = sum(margin > variant.margin for margin in parted)
    share = 100 * (1 - len(parted) / len(reference))
    return (
        f"| {variant.name} | {len(reference)} | {share:.2f} % | {len(parted)} "
        f"| {max(parted, default=0):.4f} | {beyond} |"
    )


def main(
    count: Annotated[int, typer.Option(min=2, help="Cases of each skill.")] = 50,
    model: Annotated[Path, typer.Option(help="The checkpoint.")] = Path("glm4v/demo_model"),
) -> None:
    """Compare the answers of several precisions and numbers of ranks."""
    cases = [case for skill in SKILLS for case in cases_of(skill, count)]
    reference = asyncio.run(answers(model, cases, REFERENCE))
    typer.echo(
        "| compared with float32 on one rank | answers | equal | differ |"
        " widest margin of those | beyond rounding |"
    )
    typer.echo("|---|---:|---:|---:|---:|---:|")
    for variant in VARIANTS:
        others = asyncio.run(answers(model, cases, variant))
        typer.echo(line(variant, reference, others))


if __name__ == "__main__":
    typer.run(main)
