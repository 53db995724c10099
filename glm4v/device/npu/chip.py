"""What the kernels of one generation of chips take.

Sources: the operators' help in torch_npu 2.13.0 (`_op_plugin_docs.py`), and what vllm-ascend runs.
"""

from dataclasses import dataclass

import torch

from glm4v.errors import ConfigurationError

HEAD_DIM = 128  # the head size that paged attention and rotary kernels of both generations share
BLOCK_SIZE = 128  # tokens per block of the KV cache that both generations take
GROUP_STEP = 32  # inputs with one scale in 8-bit weights of a 910B: a multiple of so many


@dataclass(frozen=True, slots=True)
class Chip:
    """One generation."""

    soc: str  # "Ascend910B3"
    dtypes: tuple[torch.dtype, ...]  # of activations, weights and cache; the best first
    is_310p: bool  # attention by ATB over a cache in NZ format, weights in NZ format


def chip_of(soc: str) -> Chip:
    """The generation of a SoC name; raises ConfigurationError for those without the kernels."""
    if soc.startswith(("Ascend910B", "Ascend910_93")):  # A2, and A3 with the same kernels
        return Chip(soc, (torch.bfloat16, torch.float16), is_310p=False)
    if soc.startswith("Ascend310P"):
        return Chip(soc, (torch.float16,), is_310p=True)
    raise ConfigurationError(
        f"the chip {soc} is not supported; supported are Ascend910B (800I A2) and Ascend310P "
        "(300I Duo)"
    )


def choose_dtype(chip: Chip, asked: torch.dtype | None, *, is_bfloat16: bool) -> torch.dtype:
    """The dtype to compute in: `asked`, or bfloat16 if checkpoint and chip have it, or float16.

    Raises ConfigurationError for a dtype that the chip does not compute in.
    """
    if asked is None:
        best = torch.bfloat16 if is_bfloat16 else torch.float16
        return best if best in chip.dtypes else torch.float16
    if asked not in chip.dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in chip.dtypes)
        name = str(asked).removeprefix("torch.")
        raise ConfigurationError(f"{chip.soc} does not compute in {name}; use GLM4V_DTYPE={names}")
    return asked


def check_group(chip: Chip, group: int | None, instead: str) -> None:
    """Raise ConfigurationError if the chip has no product with a scale for `group` inputs.

    None is one scale for each output, which all chips have. `instead` says what to set.
    """
    if group is None:
        return
    if chip.is_310p:
        raise ConfigurationError(
            f"{chip.soc} multiplies 8-bit weights with one scale for each output, these have one "
            f"for {group} inputs; {instead}"
        )
    if group % GROUP_STEP:
        raise ConfigurationError(
            f"{chip.soc} multiplies 8-bit weights with a scale for a multiple of {GROUP_STEP} "
            f"inputs, these have one for {group}; {instead}"
        )
