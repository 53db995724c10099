"""The whole system on the simulated device: the processes are real, their tokens are hashes."""

import asyncio
from io import BytesIO
from pathlib import Path

from PIL import Image

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.client import Client
from glm4v.client.messages import user_message
from glm4v.device import DeviceOptions, open_device
from glm4v.images import ImageLimits
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.v1 import inference_pb2 as api
from offline.pipeline import Pipeline

REQUESTS = (("Hello", ""), ("Hello!", ""), ("Hello", "red"), ("Hello", "blue"), ("Hello", ""))
MAX_TOKENS = 12


def message(text: str, colour: str) -> api.Message:
    if not colour:
        return user_message(text)
    file = BytesIO()
    Image.new("RGB", (30, 20), colour).save(file, "PNG")
    return user_message(text, file.getvalue())


def served(target: str) -> list[list[int]]:
    """The answers of a system."""
    found = []
    with Client(target, timeout_s=60) as client:
        for text, colour in REQUESTS:
            with client.generate(
                [message(text, colour)], temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True
            ) as generation:
                for _ in generation:
                    pass
                found.append(list(generation.token_ids))
    return found


async def computed(model: Path, text: str, colour: str) -> list[int]:
    """The answer of one process and one rank."""
    device = open_device(DeviceOptions("simulated"))
    pipeline = Pipeline(Checkpoint.open(model), device, ImageLimits())
    request = api.GenerateRequest(
        messages=[message(text, colour)],
        sampling=api.SamplingParams(temperature=0),
        max_tokens=MAX_TOKENS,
        ignore_eos=True,
    )
    return [token async for event in pipeline.answer(request) for token in event.delta.token_ids]


async def test_a_group_of_ranks_serves_what_one_process_computes(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    write_tiny(model)
    environment = {"GLM4V_DEVICE": "simulated", "GLM4V_TENSOR_PARALLEL": "2"}
    async with LocalCluster(ClusterSettings(model, environment=environment)) as cluster:
        worker = cluster.process("lm_worker")
        answers = await asyncio.to_thread(served, cluster.target)
        assert cluster.process("lm_worker") is worker  # none had to be started again
    text, other, red, blue, again = answers
    assert again == text
    assert len({tuple(answer) for answer in (text, other, red, blue)}) == 4
    assert all(len(answer) == MAX_TOKENS for answer in answers)
    assert await computed(model, "Hello", "red") == red
