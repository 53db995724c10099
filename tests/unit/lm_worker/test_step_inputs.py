"""The inputs of a plan for the device."""

import numpy as np
import torch

from glm4v.device import DeviceOptions, open_device
from lm_worker.model.inputs import ImageSpan, image_spans, step_inputs
from lm_worker.plan import Chunk, PromptScoring, SamplingParams, SamplingState, StepPlan

STATE = SamplingState(SamplingParams(), 0)
SCORED = PromptScoring((0, 2), (5, 7), (1, 9), 0)
PLAN = StepPlan(
    0,
    (
        # The end of a prompt, with the second and third token of an image.
        Chunk(
            0, (-2, -3, 7), (2, 2, 3), 4, (0,), "a", STATE, PromptScoring((0, 2), (5, 7), (1, 9), 0)
        ),
        Chunk(1, (8, 9), (0, 1), 0, (1,), "", None, PromptScoring((1,), (1,), (3,), 0)),
        Chunk(2, (4,), (9,), 12, (2,), "b", STATE),  # a decode: its image is in the cache
        Chunk(3, (5, -1), (0, 1), 0, (3,), "b", None),
    ),
)


def test_indices_count_from_the_beginning_of_the_step() -> None:
    inputs = step_inputs(PLAN)
    assert inputs.token_ids.tolist() == [0, 0, 7, 8, 9, 4, 5, 0]
    assert inputs.positions.tolist() == [2, 2, 3, 0, 1, 9, 0, 1]
    assert inputs.sample_indices.tolist() == [2, 5]
    assert inputs.logprob_indices.tolist() == [0, 2, 4]


def test_image_embeddings_replace_their_ids() -> None:
    assert list(image_spans(PLAN)) == [
        ImageSpan("a", slice(0, 2), slice(1, 3)),
        ImageSpan("b", slice(7, 8), slice(0, 1)),
    ]


def test_one_upload_moves_all_inputs() -> None:
    inputs = step_inputs(PLAN)
    moved = open_device(DeviceOptions("cpu", "bfloat16")).upload(inputs)
    memory = set()
    for name in ("token_ids", "positions", "sample_indices", "logprob_indices"):
        tensor = getattr(moved, name)
        assert tensor.dtype == torch.int64
        assert np.array_equal(tensor.numpy(), getattr(inputs, name))
        memory.add(tensor.untyped_storage().data_ptr())
    assert len(memory) == 1
