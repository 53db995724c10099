"""Sampling from logits on the pretend device: the tokens of the CPU, by kernels that the NPU has.

The sampler asks the device for the best candidates alone, by torch's operators, and samples on the
host in float64. So `npu_top_k_top_p` is never called, whose top-p works in the logits' own dtype.
"""

import pytest
import torch

from glm4v.device import Device, DeviceOptions, open_device
from lm_worker.plan import SamplingParams, SamplingState
from lm_worker.sampling.sampler import sample, token_logprobs
from tests.npu.pretend.emulation import Emulation

TOKENS, COLUMNS = 1000, 1024

PARAMS = {
    "greedy": SamplingParams(want_logprobs=True, top_logprobs=5),
    "top-p": SamplingParams(temperature=0.8, top_p=0.8, seed=3),
    "top-k": SamplingParams(temperature=1.0, top_k=50, seed=4),
    "top-k beyond the candidates": SamplingParams(temperature=1.0, top_k=990, seed=5),
    "both": SamplingParams(temperature=1.3, top_k=40, top_p=0.9, seed=6),
    "all tokens": SamplingParams(temperature=5.0, seed=7),
    "typical and min-p": SamplingParams(temperature=1.0, typical_p=0.7, min_p=0.01, seed=8),
    "penalties": SamplingParams(
        temperature=1.0,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        logit_bias=((5, 2.0), (9, -3.0)),
        seed=9,
    ),
}


@pytest.mark.parametrize("name", PARAMS)
def test_tokens_are_the_cpus(name: str, npu: Device, emulation: Emulation) -> None:
    cpu = open_device(DeviceOptions("cpu", "float32"))
    logits = 3 * torch.randn(4, COLUMNS, generator=torch.Generator().manual_seed(1)).half()
    states = [
        SamplingState(PARAMS[name], index, (1, 5), (5, 5, 7), forbidden_ids=(3,))
        for index in range(4)
    ]
    given = sample(npu, logits.to(npu.torch_device), states, TOKENS)
    wanted = sample(cpu, logits.float(), states, TOKENS)
    assert [token.token_id for token in given] == [token.token_id for token in wanted]
    assert "npu::npu_top_k_top_p" not in emulation.calls


def test_logprobs_of_a_prompt_are_the_cpus(npu: Device, emulation: Emulation) -> None:
    logits = torch.randn(4, COLUMNS, generator=torch.Generator().manual_seed(1)).half()
    given = token_logprobs(logits.to(npu.torch_device), (1, 2, 3, 4), 3)
    wanted = token_logprobs(logits.float(), (1, 2, 3, 4), 3)
    for (token, logprob, top), (right, right_logprob, right_top) in zip(given, wanted, strict=True):
        assert token == right
        assert logprob == pytest.approx(right_logprob, abs=1e-5)
        assert [each for each, _ in top] == [each for each, _ in right_top]
