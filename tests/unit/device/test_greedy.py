"""The best token of each row: torch's own operators, and the CPU's shorter way."""

import math

import pytest
import torch

from glm4v.device import Device, DeviceOptions, open_device

ROWS = [
    ([0.0, 2.0, 1.0], 1),
    ([3.0, 3.0, 1.0], 0),  # the lower id of equal ones
    ([0.0, math.nan, 1.0], -1),
    ([math.inf, 2.0, 1.0], -1),
    ([-math.inf, -5.0, -math.inf], 1),
    ([-math.inf, -math.inf, -math.inf], -1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["cpu", "simulated"])
def test_the_best_token_or_none_where_the_best_is_not_finite(kind: str, dtype: torch.dtype) -> None:
    device = open_device(DeviceOptions(kind, "float32"))
    assert (type(device).greedy is Device.greedy) == (kind == "simulated")
    logits = torch.tensor([row for row, _ in ROWS], dtype=dtype)
    assert device.greedy(logits).tolist() == [best for _, best in ROWS]
