"""GPTQ, as AutoGPTQ, GPTQModel, optimum and auto-round pack it: 4 or 8 bits in int32 words.

Source: QuantLinear of AutoGPTQ 0.7.1 and GPTQModel 7.7.0. A value is (integer - zero) x scale. The
first version of the format stores zero - 1. A zero of 0 then wraps and carries into its neighbour,
so that an asymmetric file of the first version cannot be told from a damaged one: it is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glm4v.checkpoint.formats.methods import INSTEAD
from glm4v.checkpoint.formats.stored_matrix import Layout, Lookup, StoredMatrix

_VERSIONS = {"gptq": 1, "gptq_v2": 2}  # what is missing is the first


@dataclass(frozen=True)
class Gptq:
    """Which matrices are quantized shows by their tensors; the configuration says how."""

    bits: int
    group_size: int  # columns that share a scale; -1: all
    offset_added: int  # to a stored zero
    stems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The tool, bits and groups."""
        groups = f"groups of {self.group_size}" if self.group_size > 0 else "channel"
        return f"GPTQ ({self.bits} bits by {groups})"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Gptq":
        """That of a `quantization_config` or quantize_config.json; raises ValueError."""
        bits, group_size = int(config["bits"]), int(config["group_size"])
        if bits not in (4, 8):
            raise ValueError(f"{bits} bits are not read, 4 and 8 are; {INSTEAD}")
        version = str(config.get("checkpoint_format") or config.get("format") or "gptq")
        if version not in _VERSIONS:
            raise ValueError(f"checkpoint_format {version!r} is not read; {INSTEAD}")
        if config.get("desc_act") and not config.get("static_groups"):
            raise ValueError(
                "desc_act puts columns into groups in the order of their activations, which is not "
                f"read; quantize with desc_act=False, or {INSTEAD}"
            )
        if _VERSIONS[version] == 1 and not config.get("sym", True):
            raise ValueError(
                "asymmetric zero points in the format gptq, which loses a zero point of 0, are not "
                f"read; save it as gptq_v2, or {INSTEAD}"
            )
        stem = config.get("model_file_base_name") or f"gptq_model-{bits}bit-{group_size}g"
        return cls(bits, group_size, 2 - _VERSIONS[version], ("model", str(stem)))

    def matrix(self, name: str, shape: tuple[int, int], lookup: Lookup) -> StoredMatrix | None:
        """Of `X.weight`: `X.qweight`, `X.qzeros`, `X.scales` and `X.g_idx`."""
        rows, columns = shape
        stem = name.removesuffix("weight")
        found = lookup(stem + "qweight")
        if found is None:
            return None
        group = self.group_size if self.group_size > 0 else columns
        words, groups = 32 // self.bits, -(-columns // group)
        expected = {
            "qweight": (columns // words, rows),
            "qzeros": (groups, rows // words),
            "scales": (groups, rows),
        }
        for part, size in expected.items():
            tensor = lookup(stem + part)
            if tensor is None or tensor[1] != size:
                has = "is missing" if tensor is None else f"has shape {list(tensor[1])}"
                raise ValueError(f"{stem}{part} {has}; {list(size)} is needed")
        order = lookup(stem + "g_idx")
        return StoredMatrix(
            Layout.GPTQ,
            rows,
            columns,
            self.bits,
            group,
            values=stem + "qweight",
            scales=stem + "scales",
            offsets=stem + "qzeros",
            column_groups=None if order is None else stem + "g_idx",
            offset_added=self.offset_added,
        )

    def extras(self, matrix: StoredMatrix) -> tuple[str, ...]:
        """None that hold anything."""
        return ()
