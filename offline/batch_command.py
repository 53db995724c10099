"""`glm4v batch`: questions about a folder of images, answered in this process."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.cli.options import unicode_text
from glm4v.client.conversation_file import read_file
from glm4v.errors import InvalidRequest
from offline import options as opt
from offline.image_folder import GUIDE_QUESTION, images_in, read_image

if TYPE_CHECKING:
    from offline.batch import BatchSize, Question
    from offline.rank_group import Hardware


def command(
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    model: opt.Model = DEMO_MODEL,
    question: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            parser=unicode_text,
            help="Asked about the first image, the second one, …; the last one about all others.",
            show_default=GUIDE_QUESTION,
        ),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same from a file, one a line.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most questions at once.")] = 1,
    max_input: opt.MaxInput = 2048,
    max_tokens: opt.MaxTokens = 256,
    tensor_parallel: opt.TensorParallel = 1,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    weight_dtype: opt.WeightDtype = "auto",
    threads: opt.Threads = 0,
) -> None:
    """Answer a question about each image of a folder, in one process without Redis.

    Images are taken by name. Answers are greedy, and printed as MindIE's guide prints them.
    """
    files = images_in(images)
    texts = questions_for(question or [], questions, len(files))
    data = [read_image(file) for file in files]
    from offline.batch import BatchSize, Question
    from offline.rank_group import Hardware

    asked = [Question(text, each) for text, each in zip(texts, data, strict=True)]
    hardware = Hardware(device, dtype, weight_dtype, threads, tensor_parallel)
    size = BatchSize(min(batch, len(asked)), max_input, max_tokens)
    asyncio.run(_print_answers(model, hardware, size, asked))


def questions_for(listed: Sequence[str], file: Path | None, count: int) -> list[str]:
    """A question for each of `count` images. Raises InvalidRequest for more questions than that."""
    if listed and file is not None:
        raise InvalidRequest("give questions with --question or in a file, not both")
    texts = list(listed)
    if file is not None:
        try:
            lines = read_file(file, "questions").decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{file} is not UTF-8: {error}") from None
        texts = [line for line in lines if line.strip()]
        if not texts:
            raise InvalidRequest(f"{file} has no question; write one on each line")
    if len(texts) > count:
        raise InvalidRequest(
            f"there are {len(texts)} questions and {count} images; at most one question to an image"
        )
    texts = texts or [GUIDE_QUESTION]
    return texts + texts[-1:] * (count - len(texts))


async def _print_answers(
    model: Path, hardware: "Hardware", size: "BatchSize", questions: "Sequence[Question]"
) -> None:
    from glm4v.checkpoint.checkpoint import Checkpoint
    from offline.batch import BatchRunner
    from offline.rank_group import RankGroup

    checkpoint = Checkpoint.open(model)
    group = RankGroup(checkpoint, hardware)
    number = 0
    async with BatchRunner(checkpoint, group, size).running() as runner:
        for start in range(0, len(questions), size.questions):
            asked = questions[start : start + size.questions]
            result = await runner.answer(asked, max_tokens=size.max_tokens)
            for question, answer in zip(asked, result.answers, strict=True):
                typer.echo(f"Question[{number}]: {question.text}")
                typer.echo(f"Answer[{number}]: {answer.text}")
                typer.echo(f"Generate[{number}] token num: ({number}, {answer.tokens})")
                number += 1
