"""The measurement for GPUs on the CPU, with a small geometry; and what its report says."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bench.geometry import GLM_4V_9B, RandomWeights
from bench.gpu import NOT_BEGUN, Part, Report, run
from bench.gpu_ours import OurLanguageModel, OurVisionModel, median_seconds
from glm4v.checkpoint.tensor_shapes import expected_tensors
from glm4v.device import Device, DeviceOptions, open_device

SMALL = replace(
    GLM_4V_9B,
    hidden_size=64,
    layers=2,
    heads=4,
    head_dim=16,
    ffn_size=96,
    vocab_size=2048,
    vision=replace(GLM_4V_9B.vision, hidden_size=32, layers=2, heads=2, mlp_size=64, image_size=56),
)


@pytest.fixture(scope="module")
def device() -> Device:
    return open_device(DeviceOptions("cpu", "float32", "float32"))


def test_the_geometry_is_that_of_the_published_checkpoint() -> None:
    """Its index names 27.8 GB of bfloat16 tensors, 13.9 billion values."""
    values = sum(torch.Size(shape).numel() for _, shape in expected_tensors(GLM_4V_9B))
    assert 13.8e9 < values < 14.0e9
    assert GLM_4V_9B.vision.num_image_tokens == 1602


def test_weights_have_the_shape_of_the_part_that_is_read(device: Device) -> None:
    weights = RandomWeights(SMALL, device)
    name = "transformer.encoder.layers.1.mlp.dense_h_to_4h.weight"
    assert weights.read(name).shape == (192, 64)
    assert weights.read(name, rows=[(0, 48), (96, 144)]).shape == (96, 64)
    assert weights.read(name, columns=(16, 32)).shape == (192, 16)
    assert 0.015 < weights.read(name).std() < 0.025


def test_every_part_of_ours_runs(device: Device) -> None:
    language = OurLanguageModel(SMALL, device, batch=3, context=50)
    language.prefill(50)
    language.prefill(16)
    language.decode(1)
    language.decode(3)
    OurVisionModel(SMALL, device).encode()


def test_calls_are_warmed_up_before_they_are_measured() -> None:
    calls: list[None] = []
    assert median_seconds(lambda: calls.append(None), 5) >= 0
    assert len(calls) == 8


def test_the_report_is_kept_after_each_part_and_names_what_was_not_measured(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.gpu.version", lambda name: "5.24.0")
    clock = iter([0.0, 0.0, 0.0, 9.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))

    def out_of_memory() -> list[str]:
        raise torch.OutOfMemoryError

    def parts() -> Iterator[tuple[list[str], Part, Part]]:
        yield ["prefill", "decode"], lambda: ["1 ms", "2 ms"], out_of_memory
        yield ["vision"], lambda: ["3 ms"], lambda: ["4 ms"]

    kept: list[str] = []
    report = Report(device, "python -m bench.gpu")
    run(report, parts(), until=5.0, keep=kept.append)
    assert report.rows == [
        ("prefill", "1 ms", "out of memory"),
        ("decode", "2 ms", "out of memory"),
        ("vision", "3 ms", NOT_BEGUN),
    ]
    assert "| decode | 2 ms | out of memory |" in kept[0]
    assert "vision |" not in kept[0]
    assert "| vision | 3 ms | not measured: out of time |" in kept[1]
