"""Captions by a running system, over the Python client."""

import asyncio
from pathlib import Path

from glm4v.client import AsyncClient
from glm4v.client.messages import user_message
from glm4v.errors import (
    Cancelled,
    DeadlinePassed,
    Glm4vError,
    InvalidRequest,
    Overloaded,
    RequestFailed,
    TooLarge,
)
from offline.image_folder import read_image
from precision.prediction import Prediction

_OF_ONE_IMAGE = (InvalidRequest, Overloaded, RequestFailed, DeadlinePassed, Cancelled)
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # before asking a full system again


async def caption_by_gateway(
    client: AsyncClient, question: str, max_tokens: int, at_once: int, prediction: Prediction
) -> None:
    """Caption all that is left with `at_once` requests under way.

    Whatever is answered while the file is written goes into it next, so that many quick answers
    share a write. Raises the errors of a system that answers nobody: Unavailable, Unauthenticated.
    """
    left = iter(prediction.left)
    asking: dict[asyncio.Task[str], Path] = {}
    try:
        while True:
            for image in left:
                task = asyncio.create_task(_caption(client, image, question, max_tokens))
                asking[task] = image
                if len(asking) == at_once:
                    break
            if not asking:
                return
            done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            await _keep({asking.pop(task): task for task in done}, prediction)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _keep(done: dict[Path, asyncio.Task[str]], prediction: Prediction) -> None:
    captions: dict[str, str] = {}
    broken: Glm4vError | None = None
    for image, task in done.items():
        try:
            captions[image.name] = task.result()
        except _OF_ONE_IMAGE as error:
            prediction.fail(image.name, error)
        except Glm4vError as error:
            broken = error
    if captions:
        await asyncio.to_thread(prediction.keep, captions)
    if broken is not None:
        raise broken


async def _caption(client: AsyncClient, image: Path, question: str, max_tokens: int) -> str:
    message = user_message(question, read_image(image))
    for pause_s in (*_PAUSES_S, None):
        try:
            async with client.generate([message], temperature=0.0, max_tokens=max_tokens) as answer:
                return "".join([piece async for piece in answer.texts()])
        except TooLarge:
            raise
        except Overloaded:
            if pause_s is None:
                raise
            await asyncio.sleep(pause_s)
    raise AssertionError("the last attempt returned or raised")
