"""The check for real NPUs on the pretend device: it passes there, and sees planted mistakes."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.geometry import GLM_4V_9B
from glm4v.device import Device
from tests.e2e.fleet import ROOT
from tests.npu.check import int8, memory, parallel, parts
from tests.npu.check.collectives import SIZES, bandwidth
from tests.npu.check.comparison import Comparison
from tests.npu.check.report import Failed, Page
from tests.npu.conftest import SOC
from tests.npu.pretend import references
from tests.npu.pretend.emulation import Emulation
from tests.npu.processes import SITE
from tests.npu.required import LANGUAGE, VISION

CASES = 3  # of the golden ones, the first with an image
SMALL = replace(
    GLM_4V_9B,
    hidden_size=64,
    layers=2,
    heads=4,
    ffn_size=96,
    vocab_size=2048,
    vision=replace(GLM_4V_9B.vision, hidden_size=64, layers=2, heads=2, mlp_size=64, image_size=56),
)


@pytest.fixture
def micro(npu: Device, checkpoint_dir: Callable[[str], Path]) -> parts.Micro:
    micro = parts.Micro(npu, checkpoint_dir("micro-glm4v"))
    micro.cases = micro.cases[:CASES]
    return micro


def test_every_operator_in_use_is_compared(micro: parts.Micro, emulation: Emulation) -> None:
    text = "\n".join(parts.operators(micro))
    for name in LANGUAGE[SOC] | VISION[SOC]:
        assert f"| {name} |" in text


@pytest.mark.parametrize("name", ["npu::npu_add_rms_norm", "npu::npu_gelu"])
def test_an_operator_that_is_off_fails(
    micro: parts.Micro, emulation: Emulation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = references.REFERENCES[name]

    def off(*args: Any, **kwargs: Any) -> Any:
        result = right(*args, **kwargs)
        first = result[0] if isinstance(result, tuple) else result
        first.mul_(1.05)
        return result

    def with_the_right_ones() -> Comparison:
        comparison = Comparison()
        comparison._references[name] = right
        return comparison

    monkeypatch.setitem(references.REFERENCES, name, off)
    monkeypatch.setattr(parts, "Comparison", with_the_right_ones)
    with pytest.raises(Failed) as failed:
        parts.operators(micro)
    (line,) = (line for line in failed.value.lines if f"| {name} |" in line)
    assert float(line.split("|")[3]) > 1


def test_golden_cases_pass_and_a_wrong_scale_does_not(
    micro: parts.Micro, emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(parts.goldens(micro))) > 2 * CASES
    right = references.REFERENCES["npu::npu_rms_norm"]
    monkeypatch.setitem(
        references.REFERENCES,
        "npu::npu_rms_norm",
        lambda x, gamma, epsilon: right(x, gamma * 1.5, epsilon),
    )
    with pytest.raises(Failed):
        parts.goldens(micro)


@pytest.mark.chip("Ascend910B")
def test_replays_equal_single_operators(
    micro: parts.Micro, emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch_npu

    assert "tokens equal" in next(iter(parts.replays(micro)))
    monkeypatch.setattr(torch_npu.npu.NPUGraph, "update", lambda graph, cpu_update_input: None)
    with pytest.raises(Failed):
        parts.replays(micro)


def test_speed_and_memory_are_measured(
    npu: Device, emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a small geometry; the figures say nothing of a real device."""
    monkeypatch.setattr(parts, "REPEATS", 1)
    monkeypatch.setattr(parts, "BATCHES", (1, 4))
    text = "\n".join(parts.speed(npu, SMALL, context=40))
    for batch in parts.BATCHES:
        assert f"| decode, batch {batch} |" in text
    assert "One image: " in next(iter(parts.vision_speed(npu, SMALL)))


def test_products_with_8_bit_weights_are_compared(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "ROWS", (1, 3))
    monkeypatch.setattr(int8, "REPEATS", 1)
    text = "\n".join(int8.products("float16", SMALL))
    forms = {"int8-channel"} if SOC.startswith("Ascend310P") else {"int8", "int8-channel"}
    for form in forms:
        assert f"| {form} | [2048, 64] | 3 |" in text
    assert ("| int8 |" in text) == ("int8" in forms)
    right = references.REFERENCES["npu::npu_weight_quant_batchmatmul"]
    monkeypatch.setitem(
        references.REFERENCES,
        "npu::npu_weight_quant_batchmatmul",
        lambda *args, **options: right(*args, **options) * 1.05,
    )
    with pytest.raises(Failed):
        int8.products("float16", SMALL)


@pytest.fixture
def emulated_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of a group compute on two pretend devices."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SITE), str(ROOT)]))
    monkeypatch.setenv("PRETEND_NPU_DEVICES", "2")


def test_bandwidth_and_memory_of_a_group_are_measured(emulated_ranks: None, tmp_path: Path) -> None:
    text = "\n".join(bandwidth(2, tmp_path, repeats=1))
    for name in SIZES:
        assert f"| {name} |" in text
    assert "0.42 GB are left for it" in text


def test_golden_cases_of_a_group_pass_and_a_wrong_sum_does_not(
    emulated_ranks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "right").mkdir()
    assert len(list(parallel.goldens(3, tmp_path / "right", CASES))) > 2 * CASES
    assert (tmp_path / "right" / "group of 2").exists()  # 3 do not divide the heads
    (tmp_path / "wrong").mkdir()
    monkeypatch.setenv("PRETEND_NPU_WRONG_SUMS", "1")
    with pytest.raises(Failed, match="wrong results"):
        parallel.goldens(2, tmp_path / "wrong", CASES)


def test_memory_at_rest_is_said(npu: Device) -> None:
    (line,) = memory.at_rest(npu)
    assert "2.15 GB in all" in line
    assert "docs/ascend.md assumes 2 GB" in line


def test_the_page_is_complete_whatever_fails(tmp_path: Path) -> None:
    page = Page(tmp_path / "report.md")

    def broken() -> list[str]:
        raise torch.OutOfMemoryError("no memory")

    def wrong() -> list[str]:
        raise Failed(["| off |"])

    page.run("One", lambda: ["fine"])
    page.run("Two", broken)
    page.run("Three", wrong)
    text = (tmp_path / "report.md").read_text()
    assert "Failed: Two, Three." in text
    assert "## One: passed" in text
    assert "OutOfMemoryError: no memory" in text
    assert "## Three: FAILED" in text
