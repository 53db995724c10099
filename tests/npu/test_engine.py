"""The whole engine and the vision tower on the pretend device, in one process."""

import asyncio
from dataclasses import replace

import pytest

from gateway.access.caller import Caller
from gateway.admission.admission import Admission, AdmissionLimits
from gateway.admission.sampling import read_defaults
from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import DEMO_MODEL, demo_examples
from glm4v.client.messages import assistant_message, user_message
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.images import ImageLimits
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2 as api
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.translate import sequence_request
from tests.npu.conftest import SOC
from tests.npu.pretend.emulation import CALLS
from tests.npu.required import LANGUAGE, VISION
from tests.parity.engine_runs import Answers, Asked, Running
from vision_worker.decoders import Decoders
from vision_worker.encoder import Encoder

COUNT = 16


def requests(count: int = COUNT) -> list[api.GenerateRequest]:
    """So many turns of the demo's conversations that have an image."""
    turns = []
    for example in demo_examples():
        if example.image is None:
            continue
        messages: list[api.Message] = []
        for question, answer in example.turns:
            image = None if messages else example.image.read_bytes()
            messages = [*messages, user_message(question, image)]
            sampling = api.SamplingParams(temperature=0)
            request = api.GenerateRequest(messages=messages, sampling=sampling, max_tokens=64)
            turns.append(request)
            messages = [*messages, assistant_message(answer)]
    return [turns[number % len(turns)] for number in range(count)]


async def encode_all(
    checkpoint: Checkpoint, device: Device, files: set[bytes]
) -> dict[bytes, TensorBytes]:
    """The embedding of each image, one after the other, by a vision worker's encoder."""
    decoders = Decoders(ImageLimits(), checkpoint.spec.vision.image_size, quick=1)
    encoder = Encoder(checkpoint, device, decoders)
    try:
        await encoder.start()
        return {file: await encoder.encode(file) for file in files}
    finally:
        encoder.close()


async def answers(device: Device, checkpoint: Checkpoint, count: int = COUNT) -> list[list[int]]:
    """The tokens that the engine answers so many requests at once with."""
    tokenizer = Tokenizer.read(checkpoint.directory, checkpoint.spec)
    limits = AdmissionLimits(ImageLimits(), 3600.0, 3600.0)
    defaults = read_defaults(checkpoint.directory)
    admission = Admission(checkpoint.spec, checkpoint.fingerprint, tokenizer, defaults, limits)
    admitted = [await admission.admit(request, Caller(), None) for request in requests(count)]
    files = {each.image for each in admitted if each.image is not None}
    embeddings = await encode_all(checkpoint, device, files)
    sink = Answers()
    config = EngineConfig(
        blocks=COUNT * 5, max_num_seqs=COUNT, max_batched_tokens=600, block_size=128
    )
    engine = build_engine(checkpoint, device, config, sink)
    await engine.start()
    running = Running(engine, sink, asyncio.create_task(engine.run()))
    try:
        jobs = [
            Asked(sequence_request(each.job, checkpoint.spec), embeddings[each.image or b""])
            for each in admitted
        ]
        tokens = await running.answer(jobs)
        await ask_again(running, jobs[:3], tokens)
        engine.stop()
        await running.stepping
    finally:
        running.stepping.cancel()
        engine.close()
    return [tokens[each.request.request_id] for each in jobs]


async def ask_again(running: Running, jobs: list[Asked], tokens: dict[str, list[int]]) -> None:
    """The same answers from the tokens in the cache, those of partly filled blocks included."""
    before = running.scheduler.counts.computed_tokens
    again = [
        replace(job, request=replace(job.request, request_id=f"{job.request.request_id} again"))
        for job in jobs
    ]
    answered = await running.answer(again)
    expected = [tokens[job.request.request_id] for job in jobs]
    assert list(answered.values()) == expected
    # The last token of each prompt, and those of the answers that were fed back.
    assert running.scheduler.counts.computed_tokens - before == sum(map(len, expected))


@pytest.mark.timeout(300)
async def test_sixteen_requests_with_images_are_answered_as_by_the_cpu(
    npu: Device, request: pytest.FixtureRequest
) -> None:
    checkpoint = Checkpoint.open(DEMO_MODEL)
    expected = await answers(open_device(DeviceOptions("cpu", "float32")), checkpoint)
    assert len({tuple(tokens) for tokens in expected}) > COUNT / 3, "one answer for all"
    request.getfixturevalue("emulated_threads")
    CALLS.clear()
    assert await answers(npu, checkpoint) == expected
    assert set(CALLS) >= LANGUAGE[SOC] | VISION[SOC]
    assert "aten::scaled_dot_product_attention" not in CALLS
