"""What `glm4v bench vision` divides by, and what it prints."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from bench.command import command
from bench.geometry import RandomWeights
from bench.tower import medium_tower, operations
from glm4v.device.cpu.device import CpuDevice
from glm4v.errors import InvalidRequest
from vision_worker.model import VisionModel


def test_operations_are_those_that_torch_counts() -> None:
    device, spec = CpuDevice(torch.float32), medium_tower(56)
    model = VisionModel(spec, RandomWeights(spec, device), device)
    with FlopCounterMode(display=False) as counter:
        model.encode(torch.zeros(1, 3, 56, 56), lambda: None)
    uncounted = spec.vision.layers * 2 * (2 * 17 * 17 * spec.vision.hidden_size)  # attention
    assert operations(spec) == counter.get_total_flops() + uncounted


def test_rates_of_each_round_are_printed() -> None:
    done = CliRunner().invoke(
        command, ["vision", "--size", "28", "--rounds", "2", "--processor-time", "--json"]
    )
    [point] = json.loads(done.output)["points"]
    assert (point["pixels"], point["tokens"]) == (28, 5)
    assert len(point["rounds"]) == 2
    assert all(rate > 0 for one in point["rounds"] for rate in one.values())


def test_half_patches_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="multiple of 28"):
        CliRunner().invoke(command, ["vision", "--size", "30"], catch_exceptions=False)
