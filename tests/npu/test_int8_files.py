"""Checkpoints that other tools quantized, in every layout that is read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.errors import ConfigurationError
from lm_worker.model.layers import Shard, layer_weights
from tests.npu.conftest import SOC
from tests.npu.pretend.emulation import Emulation
from tests.npu.test_int8 import (
    ARITHMETIC,
    IS_310P,
    NPU,
    OPERATOR,
    PRODUCTS_IN_16_BITS,
    random,
    share,
)
from tests.npu.test_language import WHOLE
from tests.parity.golden_plans import cases, load_model, open_golden, play, read_case
from tests.parity.test_int8_weights import PlainDevice
from tests.unit.checkpoint.quantized_by.folder import CASES, write_case

LAYER = "transformer.encoder.layers.0."
OUTPUT = "transformer.output_layer"
CHANNEL = [name for name in CASES if "channel" in name]
SERVED = CHANNEL if IS_310P else [name for name in CASES if name != "int-8-groups-asymmetric"]
GROUPS = {"gptq-4-groups": 64, "int-8-groups-asymmetric": 16}  # inputs with one scale; others: 32
STEPS = 2  # a prompt and a token


def logits(checkpoint: Checkpoint, device: Device) -> torch.Tensor:
    """[1 + STEPS, vocabulary] for a prompt of another model."""
    golden = open_golden("bundled")
    name = next(each for each in cases(golden) if f"{each}/vision_embeddings" not in golden)
    case = read_case(golden, name, checkpoint.spec)
    known, tokens = (
        tuple(token % checkpoint.spec.vocab_size for token in ids)
        for ids in (case.token_ids, case.tokens[:STEPS])
    )
    case = replace(case, token_ids=known, tokens=tokens)
    with torch.inference_mode():
        model = load_model(checkpoint, device)
    (played,) = play(model, device, checkpoint.spec, [case], chunk=WHOLE, block_size=128)
    return played.logits.float().cpu()


@pytest.mark.parametrize("name", SERVED)
def test_they_are_multiplied_as_they_are(name: str, emulation: Emulation, tmp_path: Path) -> None:
    """Logits of the CPU; matrices that the tool left in 16 bits stay so, on a 310P in NZ."""
    checkpoint = Checkpoint.open(write_case(name, tmp_path))
    exact = logits(checkpoint, PlainDevice(None))
    device = open_device(DeviceOptions("npu", "float16", quantized_by=checkpoint.quantized_by))
    assert device.description == f"{SOC}, float16, weights int8 by {checkpoint.quantized_by}"
    ours = logits(checkpoint, device)
    assert (ours - exact).norm() < ARITHMETIC["float16"] * exact.norm()
    computed = 1 + STEPS  # on a 910B: the prompt, a step to warm up, its capture
    in_16_bits = 0 if OUTPUT in CASES[name]["dequantized"] else 1
    assert emulation.calls[OPERATOR] == computed * (5 - in_16_bits)
    assert sum(emulation.calls[each] for each in PRODUCTS_IN_16_BITS) == computed * in_16_bits
    assert emulation.calls["npu::npu_format_cast"] == (in_16_bits if IS_310P else 0)


@pytest.mark.parametrize("name", sorted(CASES.keys() - SERVED))
def test_groups_that_the_chip_has_not_are_one_line(
    name: str, emulation: Emulation, tmp_path: Path
) -> None:
    """It says what to set, and that gives the logits of the CPU."""
    checkpoint = Checkpoint.open(write_case(name, tmp_path))
    has = "one scale for each output" if IS_310P else "a scale for a multiple of 32 inputs"
    with pytest.raises(ConfigurationError) as refused:
        logits(checkpoint, open_device(DeviceOptions("npu", "float16")))
    assert str(refused.value) == (
        f"{SOC} multiplies 8-bit weights with {has}, these have one for {GROUPS.get(name, 32)}"
        f"{' inputs' if IS_310P else ''}; set GLM4V_WEIGHT_DTYPE=float16, which widens them"
    )
    ours = logits(checkpoint, open_device(DeviceOptions("npu", "float16", "float16")))
    exact = logits(checkpoint, PlainDevice(None))
    assert (ours - exact).norm() < ARITHMETIC["float16"] * exact.norm()
    assert OPERATOR not in emulation.calls


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SERVED)
def test_parts_of_ranks_add_up_to_the_whole(
    name: str, ranks: int, npu: Device, emulation: Emulation, tmp_path: Path
) -> None:
    """Many begin inside of a group: 96 inputs are parts of 48 or 24, 32 of 16 or 8."""
    checkpoint = Checkpoint.open(write_case(name, tmp_path))
    weights = Weights(checkpoint, torch.float16, NPU, keeps_int8=True)
    whole = Weights(checkpoint, torch.float32, torch.device("cpu"))  # dequantized
    parts = [
        layer_weights(0, checkpoint.spec, weights, Shard(rank, ranks)) for rank in range(ranks)
    ]
    down = whole.read(LAYER + "mlp.dense_4h_to_h.weight")
    x = random(3, 96).half()
    inputs = [each.contiguous().to(NPU) for each in x.chunk(ranks, 1)]
    sums = [
        npu.linear(part.down)(own).float().cpu() for part, own in zip(parts, inputs, strict=True)
    ]
    assert share(torch.stack(sums).sum(0), x.float() @ down.T) < 2
    gate_up = whole.read(LAYER + "mlp.dense_h_to_4h.weight")
    x = random(3, 32).half()
    rows = [npu.linear(part.gate_up)(x.to(NPU)).float().cpu() for part in parts]
    found = torch.cat(
        [half for at in (0, 1) for half in (each.chunk(2, 1)[at] for each in rows)], 1
    )
    assert share(found, x.float() @ gate_up.T) < 1
