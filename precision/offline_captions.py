"""Captions by both models in this process."""

from pathlib import Path

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import InvalidRequest, Overloaded, RequestFailed
from offline.batch import BatchRunner, BatchSize, Question
from offline.image_folder import read_image
from offline.rank_group import Hardware, RankGroup
from precision.prediction import Prediction

_OF_ONE_IMAGE = (InvalidRequest, Overloaded, RequestFailed)  # the next one may do better


async def caption_offline(
    model: Path, hardware: Hardware, size: BatchSize, question: str, prediction: Prediction
) -> None:
    """Caption all that is left, `size.questions` at once; written after each batch.

    An image that spoils its batch is found by answering each alone. Raises the errors of checkpoint
    and device.
    """
    checkpoint = Checkpoint.open(model)
    group = RankGroup(checkpoint, hardware)
    left = prediction.left
    async with BatchRunner(checkpoint, group, size).running() as runner:
        for start in range(0, len(left), size.questions):
            batch = left[start : start + size.questions]
            try:
                prediction.keep(await _captions(runner, batch, question, size.max_tokens))
            except _OF_ONE_IMAGE as error:
                if len(batch) == 1:
                    prediction.fail(batch[0].name, error)
                    continue
                await _one_by_one(runner, batch, question, size.max_tokens, prediction)


async def _one_by_one(
    runner: BatchRunner,
    batch: list[Path],
    question: str,
    max_tokens: int,
    prediction: Prediction,
) -> None:
    for image in batch:
        try:
            prediction.keep(await _captions(runner, [image], question, max_tokens))
        except _OF_ONE_IMAGE as error:
            prediction.fail(image.name, error)


async def _captions(
    runner: BatchRunner, batch: list[Path], question: str, max_tokens: int
) -> dict[str, str]:
    asked = [Question(question, read_image(image)) for image in batch]
    result = await runner.answer(asked, max_tokens=max_tokens)
    return {image.name: each.text for image, each in zip(batch, result.answers, strict=True)}
