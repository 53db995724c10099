"""Failures in a step: of one request's logits, or of the device."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.tensor_bytes import TensorBytes
from lm_worker.plan import SamplingParams
from tests.parity.engine_runs import Asked, Layout, ask, running
from tests.parity.golden_plans import Golden, cases, open_golden

NAN = b"\x00\x00\xc0\x7f"  # in single precision


@pytest.fixture
def folder(checkpoint_dir: Callable[[str], Path]) -> Path:
    torch.set_num_threads(1)
    return checkpoint_dir("micro-glm4v")


@pytest.fixture
def golden() -> Golden:
    return open_golden("bundled")


def greedy(golden: Golden, folder: Path) -> list[Asked]:
    """All cases."""
    boi_id = Checkpoint.open(folder).spec.boi_id
    return [ask(golden, case, boi_id) for case in cases(golden)]


def with_a_broken_image(one: Asked, name: str, temperature: float) -> Asked:
    assert one.image is not None
    data = NAN + bytes(one.image.data)[4:]
    sampling = SamplingParams(temperature=temperature)
    request = replace(one.request, request_id=name, image="broken", sampling=sampling)
    return Asked(request, TensorBytes(one.image.dtype, one.image.shape, data))


@pytest.mark.parametrize("max_batched_tokens", [10, 10_000])
async def test_a_request_with_non_finite_logits_fails_alone(
    max_batched_tokens: int, folder: Path, golden: Golden
) -> None:
    sound = greedy(golden, folder)
    imaged = next(one for one in sound if one.image is not None)
    broken = [
        with_a_broken_image(imaged, f"broken {number}", temperature)
        for number, temperature in enumerate([0.0, 1.0])
    ]
    expected = {case: golden[f"{case}/greedy_tokens"].tolist() for case in cases(golden)}
    async with running(folder, Layout(max_batched_tokens=max_batched_tokens, block_size=4)) as run:
        answers = await run.answer([*broken, *sound])
        assert answers == {"broken 0": [], "broken 1": [], **expected}
        assert sorted(run.answers.errors) == ["broken 0", "broken 1"]
        assert "non-finite logits at token 0" in run.answers.errors["broken 0"]
        assert await run.answer(sound) == expected  # in blocks that have held what is no number


async def test_an_error_of_the_device_ends_the_engine(folder: Path, golden: Golden) -> None:
    imaged = next(one for one in greedy(golden, folder) if one.image is not None)
    with pytest.raises(KeyError):  # the runner was never given the image
        async with running(folder, Layout()) as run:
            await run.answer([replace(imaged, image=None)])
