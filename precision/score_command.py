"""`glm4v precision score`: how well captions fit their images, by CLIP."""

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from precision.judging import (
    DEFAULT_MODEL,
    Images,
    JudgeOption,
    ModelName,
    Parts,
    judge_captions,
)

if TYPE_CHECKING:
    from precision.scores import CaptionScore, ScoredFile, Scores

_WIDTH = 100


def score(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Captions, as `predict` writes them.")
    ],
    judge: JudgeOption = None,
    model_name: ModelName = DEFAULT_MODEL,
    images: Images = None,
    parts: Parts = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, which `compare` reads, instead of tables.")
    ] = False,
) -> None:
    """Rate captions by a CLIP model: the mean cosine of images and captions.

    The judge computes in float32 on this CPU and sees the RGB that the model saw. Each image is
    encoded once for all files. Of each caption it is said how much the judge has read.
    """
    scores = judge_captions(files, judge, model_name, images, in_parts=parts)
    if json:
        typer.echo(scores.model_dump_json(indent=2))
    else:
        print_scores(scores)


def print_scores(scores: "Scores") -> None:
    """A table of captions for each file, and its mean below."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=_WIDTH)
    for file in scores.files:
        table = Table("image", title=file.file)
        table.add_column("score", justify="right")
        table.add_column("judged")
        for name, each in file.captions.items():
            table.add_row(name, f"{each.score:.4f}", _judged(each))
        console.print(table)
    typer.echo(f"judge: {scores.judge}")
    for file in scores.files:
        typer.echo(summary(file))
    if scores.judge.warning:
        typer.echo(f"warning: {scores.judge.warning}", err=True)


def summary(file: "ScoredFile") -> str:
    """The mean, with how many captions were not read whole in the same line."""
    line = f"{file.file}: {file.mean:.4f}, the mean of {len(file.captions)} images"
    cut = [each for each in file.captions.values() if each.is_cut]
    if cut:
        read = median(each.judged for each in cut)
        whole = median(len(each.caption) for each in cut)
        line += (
            f"; {len(cut)} captions ({file.cut_share:.0%}) were not read to the end: "
            f"typically the first {read:.0f} of {whole:.0f} characters; --parts judges all"
        )
    empty = sum(not each.caption.strip() for each in file.captions.values())
    return f"{line}; {empty} captions are empty" if empty else line


def _judged(each: "CaptionScore") -> str:
    whole = len(each.caption)
    if each.is_cut:
        return f"the first {each.judged} of {whole} characters"
    return f"all {whole} characters" + (f" in {each.parts} parts" if each.parts > 1 else "")
