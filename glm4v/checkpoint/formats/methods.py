"""Methods of quantization by the names that configurations give them, and what to use instead."""

# Values of quant_method in config.json -> what people call it.
_NAMES = {
    "aqlm": "AQLM",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "eetq": "EETQ",
    "fbgemm_fp8": "FBGEMM (fp8)",
    "finegrained_fp8": "fp8",
    "fp8": "fp8",
    "gguf": "GGUF",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "modelopt": "NVIDIA ModelOpt",
    "mxfp4": "MXFP4",
    "quanto": "Quanto",
    "quark": "AMD Quark",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}

INSTEAD = (
    "use the checkpoint it was made from, with GLM4V_WEIGHT_DTYPE=int8 or after `glm4v quantize`; "
    "docs/compatibility.md lists the quantized checkpoints that are read"
)


def refusal(method: str) -> str:
    """Why a checkpoint that was quantized by `method` is not served."""
    return f"quantized by {_NAMES.get(method, method)}, which is not read; {INSTEAD}"
