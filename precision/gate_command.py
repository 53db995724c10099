"""`glm4v precision gate`: whether a backend computes what another one does."""

import asyncio
import gc
import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.checkpoint.demo import DEMO_MODEL
from offline import options as opt
from offline.image_folder import GUIDE_QUESTION, images_in, read_image

if TYPE_CHECKING:
    from offline.batch import Question
    from precision.backend import Backend
    from precision.recording import Recording
    from precision.tolerance import Tolerance

_FAILED = 1  # exit code of a candidate that drifts
_NOTATION = "DEVICE[,dtype=…][,weight_dtype=…][,tensor_parallel=N][,threads=N]"


def gate(
    images: Annotated[
        Path,
        typer.Argument(
            help="A folder of images, or an image.", show_default="those of the demo model"
        ),
    ] = DEMO_MODEL / "examples",
    reference: Annotated[
        str, typer.Option(metavar="BACKEND", help=f"What is right: {_NOTATION}.")
    ] = "cpu",
    candidate: Annotated[
        str, typer.Option(metavar="BACKEND", help="What is checked, in the same notation.")
    ] = "auto",
    model: opt.Model = DEMO_MODEL,
    question: opt.Question = GUIDE_QUESTION,
    max_tokens: opt.MaxTokens = 64,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 4,
    tolerance_mean: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest mean |Δ log-probability|.",
            show_default="by the coarser dtype",
        ),
    ] = None,
    tolerance_max: Annotated[
        float | None,
        typer.Option(
            min=0, help="Largest |Δ log-probability|.", show_default="by the coarser dtype"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check that a backend computes what another one does, up to rounding.

    Both encode the images and answer greedily in this process, one after the other; the candidate
    also computes the answers of the reference. The exit code is 1 if it drifts by more than the
    tolerance.
    """
    from precision.backend import Backend

    sides = Backend.parse(reference), Backend.parse(candidate)
    files = images_in(images)
    data = {file.name: read_image(file) for file in files}
    from offline.batch import Question

    questions = {name: Question(question, image) for name, image in data.items()}
    recordings = asyncio.run(_record(model, *sides, questions, max_tokens, batch))
    tolerance = _tolerance(recordings, tolerance_mean, tolerance_max)
    if not _report(*recordings, tolerance, json=json):
        raise typer.Exit(_FAILED)


def _tolerance(
    recordings: "tuple[Recording, Recording]", mean: float | None, largest: float | None
) -> "Tolerance":
    from precision.tolerance import Tolerance, tolerance_of

    if mean is not None and largest is not None:
        return Tolerance(mean, largest)
    usual = tolerance_of(recordings[0].roundings | recordings[1].roundings)
    return Tolerance(
        usual.mean if mean is None else mean, usual.largest if largest is None else largest
    )


def _report(
    reference: "Recording", candidate: "Recording", tolerance: "Tolerance", *, json: bool
) -> bool:
    """Print the comparison; True if the candidate agrees."""
    from rich.console import Console

    from precision.agreement import agreement
    from precision.gate_report import divergences, document, table
    from precision.tolerance import excesses

    found = agreement(reference, candidate)
    exceeded = excesses(found, tolerance)
    if json:
        typer.echo(json_format.dumps(document(reference, candidate, found, tolerance, exceeded)))
        return not exceeded
    typer.echo(f"reference: {reference.backend} ({reference.description})")
    typer.echo(f"candidate: {candidate.backend} ({candidate.description})")
    Console().print(table(found, tolerance))
    for line in (*divergences(found), *exceeded):
        typer.echo(line)
    verdict = "drifts from" if exceeded else "agrees with"
    allowed = f"{tolerance.mean:g} on average, {tolerance.largest:g} at most"
    typer.echo(f"{candidate.backend} {verdict} {reference.backend} (allowed: {allowed})")
    return not exceeded


async def _record(
    model: Path,
    reference: "Backend",
    candidate: "Backend",
    questions: "dict[str, Question]",
    max_tokens: int,
    batch: int,
) -> "tuple[Recording, Recording]":
    """Both recordings; the reference's models are freed before the candidate's are loaded."""
    from rich.console import Console
    from rich.progress import Progress

    from glm4v.checkpoint.checkpoint import Checkpoint
    from precision.recorder import record

    checkpoint = Checkpoint.open(model)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=2 * len(questions))

        async def of(backend: "Backend", along: "Recording | None") -> "Recording":
            progress.update(task, description=backend.text)
            return await record(
                checkpoint,
                backend,
                questions,
                max_tokens=max_tokens,
                batch=batch,
                along=along,
                on_images=lambda count: progress.advance(task, count),
            )

        first = await of(reference, None)
        gc.collect()
        return first, await of(candidate, first)
