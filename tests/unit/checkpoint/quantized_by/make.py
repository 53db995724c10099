"""Quantizes the matrices of a small checkpoint by other people's tools, and keeps what they write.

    python -m venv tools && . tools/bin/activate
    pip install torch safetensors transformers==5.24.0 compressed-tensors==0.20.1 scipy easydict \
        einops wcmatch accelerate pygtrie loguru
    pip install --no-deps auto-gptq==0.7.1 msmodelslim==26.1.0
    BUILD_CUDA_EXT=0 pip install --no-build-isolation gptqmodel==7.7.0
    python tests/unit/checkpoint/quantized_by/make.py

Each file has the tensors as the tool names and packs them. cases.json has the tool's description of
them, and of each matrix as the tool itself dequantizes it: its dtype and the SHA-256 of its bytes.
"""

import hashlib
import importlib.util
import json
import math
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
LANGUAGE = {
    "transformer.encoder.layers.0.self_attention.query_key_value": (64, 32),
    "transformer.encoder.layers.0.self_attention.dense": (32, 32),
    "transformer.encoder.layers.0.mlp.dense_h_to_4h": (192, 32),
    "transformer.encoder.layers.0.mlp.dense_4h_to_h": (32, 96),
    "transformer.output_layer": (288, 32),
}
LAYERS = {name: shape for name, shape in LANGUAGE.items() if "layers" in name}
VISION = {
    "transformer.vision.transformer.layers.0.attention.query_key_value": (96, 32),
    "transformer.vision.transformer.layers.0.attention.dense": (32, 32),
    "transformer.vision.transformer.layers.0.mlp.fc1": (64, 32),
    "transformer.vision.transformer.layers.0.mlp.fc2": (32, 64),
    "transformer.vision.linear_proj.linear_proj": (32, 32),
    "transformer.vision.linear_proj.gate_proj": (96, 32),
    "transformer.vision.linear_proj.dense_h_to_4h": (96, 32),
    "transformer.vision.linear_proj.dense_4h_to_h": (32, 96),
}
Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, int]]


def weight(name: str, shape: tuple[int, int]) -> torch.Tensor:
    """Values that are not symmetric about 0, so that an offset is not 0."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn + 0.3) / math.sqrt(shape[1])


def compressed(shapes: Shapes, form: str, **weights: Any) -> tuple[Any, Tensors, Tensors]:
    """By compressed-tensors, as llm-compressor does."""
    tool = import_module("compressed_tensors.quantization")
    limits = import_module("compressed_tensors.quantization.utils")
    compressors = import_module("compressed_tensors.compressors")
    arguments = tool.QuantizationArgs(type="int", **weights)
    scheme = tool.QuantizationScheme(targets=["Linear"], weights=arguments, format=form)
    compressor = compressors.BaseCompressor.get_value_from_registry(form)
    stored: Tensors = {}
    dense: Tensors = {}
    for name, shape in shapes.items():
        values = weight(name, shape).bfloat16()
        groups = values.view(shape[0], -1, arguments.group_size or shape[1])
        scale, zero = limits.calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
        parts = {"weight": values, "weight_scale": scale, "weight_zero_point": zero}
        packed = compressor.compress(parts, scheme)
        stored |= {f"{name}.{part}": tensor for part, tensor in packed.items()}
        dense[name] = compressor.decompress(packed, scheme)["weight"]
    config = tool.QuantizationConfig(
        config_groups={"group_0": scheme}, format=form, quantization_status="compressed",
        ignore=["re:transformer[.]vision[.].*"],
    )  # fmt: skip
    found = {"quantization_config": json.loads(config.model_dump_json())}
    return {"config": found}, stored, dense


def gptq(shapes: Shapes, bits: int, group: int) -> tuple[Any, Tensors, Tensors]:
    """By the packer of AutoGPTQ, its nearest rounding in place of its calibration."""
    module = qlinear()
    stored: Tensors = {}
    dense: Tensors = {}
    for name, shape in shapes.items():
        rows, columns = shape
        linear = torch.nn.Linear(columns, rows, bias=True)
        linear.weight.data = weight(name, shape)
        linear.bias.data.zero_()
        groups = -(-columns // group)
        padded = torch.nn.functional.pad(linear.weight.data, (0, groups * group - columns))
        most = padded.view(rows, groups, group).abs().amax(-1)
        scales = (2 * most / (2**bits - 1)).half().float()  # as they will be stored
        zeros = torch.full_like(scales, 2 ** (bits - 1))
        index = torch.arange(columns) // group
        linear.weight.data = quantized_values(linear.weight.data, scales, zeros, index, bits)
        packer = module.QuantLinear(bits, group, columns, rows, bias=True)
        linear.half()
        packer.pack(linear, scales.half(), zeros.half())
        parts = {"qweight": packer.qweight, "qzeros": packer.qzeros, "g_idx": packer.g_idx}
        parts |= {"scales": packer.scales.half(), "bias": packer.bias.half()}
        stored |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        # Its product with the unit vectors, on the CPU in float32, is the transposed matrix.
        packer.scales, packer.bias = packer.scales.float(), None
        dense[name] = packer(torch.eye(columns)).t().half().contiguous()
    found = {
        "bits": bits, "group_size": group, "damp_percent": 0.01, "desc_act": False,
        "static_groups": False, "sym": True, "true_sequential": True, "model_name_or_path": None,
        "model_file_base_name": f"gptq_model-{bits}bit-{group}g", "is_marlin_format": False,
        "quant_method": "gptq", "checkpoint_format": "gptq",
    }  # fmt: skip
    return {"quantize_config": found}, stored, dense


def gptq_v2(shapes: Shapes, bits: int, group: int) -> tuple[Any, Tensors, Tensors]:
    """By the packer of GPTQModel, asymmetric."""
    layers = import_module("gptqmodel.nn_modules.qlinear.torch")
    configs = import_module("gptqmodel.quantization.config")
    stored: Tensors = {}
    dense: Tensors = {}
    for name, shape in shapes.items():
        rows, columns = shape
        linear = torch.nn.Linear(columns, rows, bias=False)
        linear.weight.data = weight(name, shape)
        groups = linear.weight.data.view(rows, -1, group)
        least = groups.amin(-1).clamp(max=0)
        most = groups.amax(-1).clamp(min=0)
        scales = ((most - least) / (2**bits - 1)).half().float()  # as they will be stored
        packer = layers.TorchLinear(
            bits=bits, group_size=group, sym=False, desc_act=False, in_features=columns,
            out_features=rows, bias=False, register_buffers=True,
        )  # fmt: skip
        index = torch.arange(columns, dtype=torch.int32) // group
        packer.pack_original(linear, scales, (-least / scales).round(), index)
        stored |= {f"{name}.{part}": tensor for part, tensor in packer.state_dict().items()}
        packer.eval()
        packer.post_init()
        dense[name] = packer.dequantize_weight().t()
    config = configs.QuantizeConfig(
        bits=bits, group_size=group, sym=False, desc_act=False, format="gptq_v2"
    ).to_dict()
    del config["meta"]  # how it was calibrated, and folders of this machine
    return {"config": {"quantization_config": config}}, stored, dense


def qlinear() -> Any:
    """The module of AutoGPTQ's layer alone: the package needs another transformers."""
    package = importlib.util.find_spec("auto_gptq")
    assert package is not None
    folder = Path(str(package.origin)).parent
    path = folder / "nn_modules" / "qlinear" / "qlinear_cuda.py"
    spec = importlib.util.spec_from_file_location("qlinear_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quantized_values(
    values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, index: torch.Tensor, bits: int
) -> torch.Tensor:
    """The nearest values that the integers can stand for."""
    integers = (values / scales[:, index] + zeros[:, index]).round().clamp(0, 2**bits - 1)
    return (integers - zeros[:, index]) * scales[:, index]


def msmodelslim(shapes: Shapes, group: int | None) -> tuple[Any, Tensors, Tensors]:
    """By msmodelslim's own arithmetic and saver, asymmetric."""
    ir, api = import_module("msmodelslim.ir"), import_module("msmodelslim.ir.api")
    kinds = import_module("msmodelslim.ir.qal.qbase")
    ascendv1 = import_module("msmodelslim.core.quant_service.modelslim_v1.save.ascendv1")
    scope = kinds.QScope.PER_CHANNEL if group is None else kinds.QScope.PER_GROUP
    stored: Tensors = {}
    dense: Tensors = {}
    with tempfile.TemporaryDirectory() as folder:
        config = ascendv1.AscendV1Config()
        config.set_save_directory(folder)
        saver = ascendv1.AscendV1Saver(torch.nn.Module(), config, object())
        for name, shape in shapes.items():
            values = weight(name, shape)
            if group is None:
                extra: dict[str, Any] = {}
                limits = (values.amin(1), values.amax(1))
            else:
                extra = {"group_size": group}
                groups = values.view(shape[0], -1, group)
                limits = (groups.amin(-1), groups.amax(-1))
            parameters = api.calculate_qparam(
                *limits, q_dtype=kinds.QDType.INT8, q_scope=scope, symmetric=False, **extra
            )
            parameters.ext |= extra
            storage = kinds.QStorage(dtype=kinds.QDType.FLOAT, value=values)
            integers = api.quantize(storage.T, parameters).T
            kind = "PerChannel" if group is None else "PerGroup"
            layer = getattr(ir, f"W8A16Static{kind}FakeQuantLinear")(
                None, parameters, integers, None
            )
            save = (
                saver.on_w8a16_static_per_channel
                if group is None
                else saver.on_w8a16_static_per_group
            )
            save(name, layer)
            dense[name] = layer(torch.eye(shape[1])).t().contiguous()
        for key in ("version", "model_quant_type", "metadata", "group_size"):
            saver.json_writer.write(key, getattr(saver, key))
        saver.json_writer.close()
        saver.safetensors_writer.close()
        for path in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                stored |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = json.loads((Path(folder) / "quant_model_description.json").read_text())
    return {"quant_model_description": description}, stored, dense


CASES: dict[str, Callable[[], tuple[Any, Tensors, Tensors]]] = {
    "pack-8-groups": lambda: compressed(
        LANGUAGE, "pack-quantized", num_bits=8, strategy="group", group_size=32, symmetric=True
    ),
    "pack-8-channel-asymmetric": lambda: compressed(
        LAYERS, "pack-quantized", num_bits=8, strategy="channel", symmetric=False
    ),
    "pack-4-groups": lambda: compressed(
        LAYERS, "pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False
    ),
    "int-8-channel": lambda: compressed(
        LANGUAGE, "int-quantized", num_bits=8, strategy="channel", symmetric=True
    ),
    "int-8-groups-asymmetric": lambda: compressed(
        LAYERS, "int-quantized", num_bits=8, strategy="group", group_size=16, symmetric=False
    ),
    "gptq-4-groups": lambda: gptq(LANGUAGE | VISION, 4, 64),
    "gptq-8-channel": lambda: gptq(LAYERS, 8, 96),
    "gptq-v2-4-groups": lambda: gptq_v2(LAYERS, 4, 32),
    "gptq-v2-8-groups": lambda: gptq_v2(LAYERS, 8, 32),
    "msmodelslim-channel": lambda: msmodelslim(LANGUAGE, None),
    "msmodelslim-groups": lambda: msmodelslim(LAYERS, 32),
}


def main() -> None:
    """Write the files of all cases, or of those that are named."""
    path = HERE / "cases.json"
    cases = json.loads(path.read_text()) if path.exists() else {}
    for name in sys.argv[1:] or CASES:
        description, stored, dense = CASES[name]()
        save_file(
            {key: tensor.contiguous() for key, tensor in stored.items()},
            HERE / f"{name}.safetensors",
        )
        results = {
            matrix: {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "sha256": hashlib.sha256(
                    tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                ).hexdigest(),
            }
            for matrix, tensor in dense.items()
        }
        cases[name] = {**description, "dequantized": results}
    path.write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
