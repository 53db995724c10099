"""Checkpoints that other tools quantized: every value is what the tool itself dequantizes it to."""

import copy
import hashlib
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.quantized import QuantizedWeight
from glm4v.checkpoint.weights import Weights
from glm4v.device.cpu.device import CpuDevice
from glm4v.errors import CheckpointError
from tests.unit.checkpoint.quantized_by.folder import CASES, change_json, write_case, write_dense

CPU = torch.device("cpu")
DOWN = "transformer.encoder.layers.0.mlp.dense_4h_to_h"
NAMES = {
    "pack-8-groups": "compressed-tensors (8 bits by groups of 32)",
    "pack-8-channel-asymmetric": "compressed-tensors (8 bits by channel)",
    "pack-4-groups": "compressed-tensors (4 bits by groups of 32)",
    "int-8-channel": "compressed-tensors (8 bits by channel)",
    "int-8-groups-asymmetric": "compressed-tensors (8 bits by groups of 16)",
    "gptq-4-groups": "GPTQ (4 bits by groups of 64)",
    "gptq-8-channel": "GPTQ (8 bits by groups of 96)",
    "gptq-v2-4-groups": "GPTQ (4 bits by groups of 32)",
    "gptq-v2-8-groups": "GPTQ (8 bits by groups of 32)",
    "msmodelslim-channel": "msmodelslim (W8A16)",
    "msmodelslim-groups": "msmodelslim (W8A16)",
}


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def weights_of(folder: Path) -> Weights:
    return Weights(Checkpoint.open(folder), torch.float32, CPU, keeps_int8=True)


def quantized(weights: Weights, name: str, **part: object) -> QuantizedWeight:
    matrix = weights.read_matrix(name + ".weight", **part)  # type: ignore[arg-type]
    assert isinstance(matrix, QuantizedWeight)
    return matrix


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_value_is_what_the_tool_dequantizes_it_to(case: str, tmp_path: Path) -> None:
    weights = weights_of(write_case(case, tmp_path))
    for name, expected in CASES[case]["dequantized"].items():
        dense = quantized(weights, name).dequantize(getattr(torch, expected["dtype"]))
        found = hashlib.sha256(dense.view(torch.uint8).numpy().tobytes()).hexdigest()
        assert found == expected["sha256"], name
        again = weights.read(name + ".weight").to(dense.dtype)  # as devices without 8 bits do
        assert torch.equal(again, dense)


def test_what_it_was_quantized_by_is_named(case: str, tmp_path: Path) -> None:
    assert Checkpoint.open(write_case(case, tmp_path)).quantized_by == NAMES[case]


def test_a_ranks_part_begins_inside_of_a_group(case: str, tmp_path: Path) -> None:
    """96 inputs halve at 48: not at the end of a group of 32 or 64. (9, 11) are in one word."""
    weights = weights_of(write_case(case, tmp_path))
    whole = quantized(weights, DOWN).dequantize()
    for columns in ((0, 48), (48, 96), (24, 48), (72, 96), (5, 77), (9, 11)):
        part = quantized(weights, DOWN, columns=columns)
        assert torch.equal(part.dequantize(), whole[:, slice(*columns)])
    rows = quantized(weights, DOWN, rows=[(3, 11), (20, 32)], columns=(48, 96))
    assert torch.equal(rows.dequantize(), torch.cat((whole[3:11], whole[20:32]))[:, 48:])


def test_offsets_stay_only_where_8_bits_need_them(case: str, tmp_path: Path) -> None:
    weight = quantized(weights_of(write_case(case, tmp_path)), DOWN)
    has_offsets = any(each in case for each in ("asymmetric", "msmodelslim", "v2-8"))
    assert (weight.offsets is not None) == has_offsets
    if weight.offsets is not None:
        assert weight.offsets.abs().max() > 10
    stored = Checkpoint.open(tmp_path).quantized[DOWN + ".weight"]
    assert stored.is_wide == has_offsets


@pytest.mark.parametrize(("case", "matrices"), [("int-8-channel", 1), ("msmodelslim-channel", 4)])
def test_memory_is_counted_as_it_is_held(case: str, matrices: int, tmp_path: Path) -> None:
    """With offsets in float32: no kernel of the CPU has them."""
    checkpoint = Checkpoint.open(write_case(case, tmp_path))
    device = CpuDevice(torch.float32)
    device.keeps_int8 = True
    shapes = checkpoint.matrices().values()
    values = sum(rows * columns for rows, columns in shapes)
    scales = sum(rows for rows, _ in shapes) if matrices == 1 else 0
    others = checkpoint.values(vision=False) - values
    assert device.language_bytes(checkpoint) == matrices * values + 4 * scales + 4 * others
    device.subtracts_offsets = True
    assert device.language_bytes(checkpoint) < 2 * values + 4 * others


def test_quantized_vision_layers_are_dequantized(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_case("gptq-4-groups", tmp_path))
    name = "transformer.vision.transformer.layers.0.mlp.fc1.weight"
    assert name in checkpoint.quantized
    tensor = Weights(checkpoint, torch.bfloat16, CPU).read(name)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.bfloat16, (64, 32))


def test_values_are_counted_as_if_they_were_not_quantized(case: str, tmp_path: Path) -> None:
    dense = Checkpoint.open(_dense(tmp_path / "dense"))
    checkpoint = Checkpoint.open(write_case(case, tmp_path / "quantized"))
    for vision in (True, False):
        assert checkpoint.values(vision=vision) == dense.values(vision=vision)
    assert checkpoint.matrices() == dense.matrices()
    assert checkpoint.is_bfloat16(vision=False)
    assert checkpoint.fingerprint != dense.fingerprint


def _dense(folder: Path) -> Path:
    write_dense(folder)
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantized by bitsandbytes"),
        ({"load_in_8bit": True}, "quantized by bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "quantized by AWQ"),
        ({"quant_method": "fp8"}, "quantized by fp8"),
        ({"quant_method": "torchao"}, "quantized by torchao"),
        ({"quant_method": "new-thing"}, "quantized by new-thing"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}, "by auto-round"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "3 bits are not read"),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
            "desc_act .* quantize with desc_act=False",
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False},
            "asymmetric zero points .* save it as gptq_v2",
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 8, "checkpoint_format": "marlin"},
            "checkpoint_format 'marlin' is not read",
        ),
        ({"quant_method": "gptq"}, "its description is not understood"),
        ({"quant_method": "compressed-tensors"}, "its description is not understood"),
    ],
)
def test_other_methods_are_refused_by_their_names(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    folder = _dense(tmp_path)
    change_json(folder / "config.json", {"quantization_config": config})
    text = refusal(folder)
    assert re.search(message, text), text
    assert "config.json: quantized by" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_activations": {"num_bits": 8}}, "activations too .as W8A8."),
        ({"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}, "float"),
        ({"weights": {"num_bits": 2, "type": "int", "strategy": "channel"}}, "2 bits by channel"),
        ({"weights": {"num_bits": 8, "type": "int", "strategy": "tensor"}}, "8 bits by tensor"),
        ({"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
    ],
)
def test_other_schemes_of_compressed_tensors_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = write_case("int-8-channel", tmp_path)
    config = copy.deepcopy(CASES["int-8-channel"]["config"]["quantization_config"])
    config["config_groups"]["group_0"] |= change
    change_json(folder / "config.json", {"quantization_config": config})
    assert re.search(message, refusal(folder)), refusal(folder)


def test_other_types_of_msmodelslim_are_refused(tmp_path: Path) -> None:
    folder = write_case("msmodelslim-channel", tmp_path)
    change_json(folder / "quant_model_description.json", {f"{DOWN}.weight": "W8A8_DYNAMIC"})
    assert f"{DOWN}.weight as W8A8_DYNAMIC; W8A16 is read" in refusal(folder)


def test_a_description_that_was_not_copied_is_named(tmp_path: Path) -> None:
    folder = write_case("msmodelslim-channel", tmp_path)
    (folder / "quant_model_description.json").unlink()
    change_json(folder / "config.json", {"quantize": "w8a16"})
    assert "there is no quant_model_description.json" in refusal(folder)


def test_a_gguf_file_alone_is_named(tmp_path: Path) -> None:
    folder = _dense(tmp_path)
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "model.Q8_0.gguf").touch()
    assert "quantized by GGUF, which is not read" in refusal(folder)


def _spoil(folder: Path, file: str, **tensors: torch.Tensor | None) -> None:
    found = load_file(folder / file)
    for part, tensor in tensors.items():
        if tensor is None:
            del found[f"{DOWN}.{part}"]
        else:
            found[f"{DOWN}.{part}"] = tensor
    save_file(found, folder / file)


GPTQ_FILE = "gptq_model-4bit-64g.safetensors"


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    folder = write_case("gptq-4-groups", tmp_path)
    order = torch.arange(96).flip(0) // 64
    _spoil(folder, GPTQ_FILE, g_idx=order.int())
    with pytest.raises(CheckpointError, match="columns in groups of another order"):
        quantized(weights_of(folder), DOWN)


def test_zero_points_that_are_not_symmetric_are_refused(tmp_path: Path) -> None:
    """A zero point of 0, stored less 1, takes its neighbours along."""
    folder = write_case("gptq-4-groups", tmp_path)
    _spoil(folder, GPTQ_FILE, qzeros=torch.full((2, 4), -1, dtype=torch.int32))
    with pytest.raises(CheckpointError, match="not those of a symmetric file"):
        quantized(weights_of(folder), DOWN)


def test_a_bias_that_is_not_empty_is_surplus(tmp_path: Path) -> None:
    folder = write_case("gptq-4-groups", tmp_path)
    _spoil(folder, GPTQ_FILE, bias=torch.ones(32))
    assert f"{DOWN}.bias is surplus" in refusal(folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight_scale": None}, "weight_scale is missing"),
        ({"weight_scale": torch.ones(32, 2)}, "weight_scale has 2 scales for 96 columns"),
        ({"weight_scale": torch.ones(32, 12)}, "weight_scale has 12 scales for 96 columns"),
        ({"weight_scale": torch.ones(31, 1)}, "weight_scale has shape"),
        ({"weight_scale": torch.ones(32, 1, dtype=torch.int32)}, "weight_scale has dtype I32"),
        ({"weight": torch.ones(32, 95, dtype=torch.int8)}, "has shape"),
        ({"weight_g_idx": torch.ones(96, dtype=torch.int32)}, "actorder=group"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor | None], message: str
) -> None:
    folder = write_case("int-8-channel", tmp_path)
    _spoil(folder, "model.safetensors", **tensors)
    text = refusal(folder)
    assert message in text
    assert DOWN in text


def test_zero_points_that_are_not_packed_are_refused(tmp_path: Path) -> None:
    folder = write_case("pack-8-channel-asymmetric", tmp_path)
    zeros = torch.zeros(32, 1, dtype=torch.int8)
    _spoil(folder, "model.safetensors", weight_zero_point=zeros)
    assert f"{DOWN}.weight_zero_point is I8 [32, 1], not one of I32 [8, 1]" in refusal(folder)


def test_groups_that_no_kernel_knows_are_refused(tmp_path: Path) -> None:
    folder = write_case("int-8-channel", tmp_path)
    config = copy.deepcopy(CASES["int-8-channel"]["config"]["quantization_config"])
    config["config_groups"]["group_0"]["weights"] |= {"strategy": "group", "group_size": 8}
    change_json(folder / "config.json", {"quantization_config": config})
    _spoil(folder, "model.safetensors", weight_scale=torch.ones(32, 12))
    assert "groups of 8 columns are not read; multiples of 16 are" in refusal(folder)


def test_scales_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = write_case("int-8-channel", tmp_path)
    _spoil(folder, "model.safetensors", weight_scale=torch.full((32, 1), torch.nan))
    with pytest.raises(CheckpointError, match="NaN or infinite scales"):
        quantized(weights_of(folder), DOWN)


def test_a_file_that_gets_shorter_while_it_is_read_is_an_error(case: str, tmp_path: Path) -> None:
    """Were it mapped, the kernel would end the process with SIGBUS."""
    folder = write_case(case, tmp_path)
    weights = weights_of(folder)
    whole = weights.read(DOWN + ".weight")
    for file in folder.glob("*.safetensors"):
        os.truncate(file, 4096)  # the rest of the page reads as zeros where a file is mapped
    rows, columns = whole.shape
    for part in ({}, {"rows": [(1, rows)]}, {"columns": (columns // 2, columns)}):
        with pytest.raises(CheckpointError, match=r"cannot be read: the file is truncated"):
            weights.read(DOWN + ".weight", **part)
