"""Exactness through the running system: client, gateway, Redis, vision worker, language worker."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from glm4v.broker import Connection, Keys
from glm4v.v1 import inference_pb2 as api
from tests.integration.conftest import running_system
from tests.integration.golden import conversation, greedy_tokens, input_ids
from tests.integration.system import System, user
from tests.parity.golden_plans import cases, open_golden
from tests.queues import left_behind

pytestmark = pytest.mark.asyncio(loop_scope="session")

BUNDLED = open_golden("bundled")
CLIENTS = 32


@pytest.mark.parametrize("case", cases(BUNDLED))
async def test_golden_answers_come_out_of_the_running_system(system: System, case: str) -> None:
    answer = await system.ask(conversation(BUNDLED, case))
    assert answer.prompt_ids == input_ids(BUNDLED, case)
    assert answer.token_ids == greedy_tokens(BUNDLED, case)


@pytest.mark.needs_reference
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["tiny-glm4v", "tiny-glm4v-1120"])
async def test_golden_answers_with_the_real_vocabulary(
    checkpoint_dir: Callable[[str], Path], name: str
) -> None:
    golden = open_golden(name)
    async with running_system(checkpoint_dir(name)) as system:
        for case in cases(golden):
            answer = await system.ask(conversation(golden, case))
            assert answer.prompt_ids == input_ids(golden, case), case
            assert answer.token_ids == greedy_tokens(golden, case), case


def draw(seed: int) -> bytes:
    """A small image that no other seed gives."""
    noise = random.Random(seed)
    image = Image.new("RGB", (noise.randint(20, 90), noise.randint(20, 90)))
    image.putdata([tuple(noise.randbytes(3)) for _ in range(image.width * image.height)])
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def a_request(seed: int) -> tuple[list[api.Message], int]:
    """Messages of some length, with an image or not, and a number of tokens."""
    rng = random.Random(seed)
    text = "".join(rng.choice("abc 图片里有什么") for _ in range(rng.randint(1, 60)))
    image = draw(seed) if rng.random() < 0.7 else None
    return [user(text, image)], rng.randint(1, 40)


async def test_many_clients_at_once_get_what_each_gets_alone(system: System) -> None:
    requests = [a_request(seed) for seed in range(CLIENTS)]
    together = await asyncio.gather(
        *(system.ask(messages, max_tokens=most) for messages, most in requests)
    )
    for (messages, most), answer in zip(requests, together, strict=True):
        alone = await system.ask(messages, max_tokens=most)
        assert alone.token_ids == answer.token_ids
        assert alone.text == answer.text
    await nothing_is_left(system)


async def nothing_is_left(system: System, within_s: float = 0.0) -> None:
    """No lease is held and no request is open once the last answer has been read.

    After a cancel a worker needs until its next append to learn of it, `within_s`.
    """
    connection, keys = Connection(system.redis_url), Keys()
    deadline = time.monotonic() + within_s
    try:
        left = await left_behind(connection, keys)
        while left and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            left = await left_behind(connection, keys)
        assert not left
    finally:
        await connection.close()


async def test_an_image_can_be_asked_about_by_its_digest(system: System) -> None:
    image = draw(1001)
    first = await system.ask([user("what", image)])
    again = await system.ask([user("what", digest=first.image_digest)])
    assert again.token_ids == first.token_ids
    assert again.finished.timings.vision_s == 0


async def test_a_sampled_answer_depends_on_its_seed_alone(system: System) -> None:
    def sampling(seed: int) -> api.SamplingParams:
        return api.SamplingParams(temperature=1.0, top_p=1.0, seed=seed)

    messages = [user("tell me")]
    alone = await system.ask(messages, sampling=sampling(5))
    busy = await asyncio.gather(
        *(system.ask(messages, sampling=sampling(seed)) for seed in range(12))
    )
    assert busy[5].token_ids == alone.token_ids
    assert len({tuple(answer.token_ids) for answer in busy}) == 12
    assert max(max(answer.token_ids) for answer in busy) < 270  # padding is never drawn


async def test_a_repeated_request_id_attaches_and_attach_replays(system: System) -> None:
    first = await system.ask([user("once")], request_id="repeated-1")
    second = await system.ask([user("once")], request_id="repeated-1")
    assert second.token_ids == first.token_ids
    rest: list[int] = []
    call = system.stub.Attach(api.AttachRequest(request_id="repeated-1", token_offsets=[7]))
    async for reply in call:
        rest += reply.event.delta.token_ids
    assert rest == first.token_ids[7:]


async def test_stop_strings_and_stop_tokens_end_an_answer(system: System) -> None:
    whole = await system.ask([user("abc")], max_tokens=40)
    token = whole.token_ids[3]
    stopped = await system.ask([user("abc")], max_tokens=40, stop_token_ids=[token])
    end = whole.token_ids.index(token) + 1
    assert stopped.token_ids == whole.token_ids[:end]
    assert stopped.finished.stop_token_id == token
    middle = len(whole.text) // 2
    stop = whole.text[middle]
    by_string = await system.ask([user("abc")], max_tokens=40, stop=[stop])
    assert by_string.text == whole.text[: whole.text.index(stop)]
    assert by_string.finished.stop_string == stop
    assert by_string.finished.reason == api.FINISH_REASON_STOP


async def test_logprobs_are_of_the_chosen_and_the_best(system: System) -> None:
    request = api.GenerateRequest(
        messages=[user("abc")],
        sampling=api.SamplingParams(temperature=0),
        max_tokens=5,
        ignore_eos=True,
        top_logprobs=3,
    )
    reported: list[api.TokenLogprobs] = []
    async for reply in system.stub.Generate(request, timeout=30):
        reported += reply.event.delta.logprobs
    assert len(reported) == 5
    for logprobs in reported:
        assert len(logprobs.top) == 3
        assert logprobs.chosen == logprobs.top[0]
        values = [one.logprob for one in logprobs.top]
        assert values == sorted(values, reverse=True)
        assert values[0] <= 0


async def test_grpcurl_can_list_describe_and_call(system: System) -> None:
    listed = await grpcurl(system.target, "list")
    assert {"glm4v.v1.InferenceService", "grpc.health.v1.Health"} <= set(listed.split())
    assert "rpc Generate" in await grpcurl(system.target, "describe", "glm4v.v1.InferenceService")
    request = {
        "messages": [{"role": "ROLE_USER", "parts": [{"text": "Hello"}]}],
        "sampling": {"temperature": 0},
        "max_tokens": 3,
        "ignore_eos": True,
    }
    method = "glm4v.v1.InferenceService/Generate"
    answer = await grpcurl(system.target, method, data=json.dumps(request))
    assert '"completion_tokens": 3' in answer


async def grpcurl(target: str, *what: str, data: str | None = None) -> str:
    """What grpcurl prints, without any knowledge of the contract."""
    options = ["-plaintext", *(["-d", data] if data else [])]
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("grpcurl"),
        *options,
        target,
        *what,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()
