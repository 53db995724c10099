"""compressed-tensors, which llm-compressor writes: integers as int8 or packed into words.

Source: the compressors "int-quantized" and "pack-quantized" of compressed-tensors 0.20.1. A value
is (integer - zero point) x scale. Packed integers are unsigned, half of their range above what they
stand for, the zero points too; those are packed along the rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glm4v.checkpoint.formats.methods import INSTEAD
from glm4v.checkpoint.formats.stored_matrix import Layout, Lookup, StoredMatrix

_FORMATS = ("int-quantized", "pack-quantized")
_STRATEGIES = ("channel", "group")


@dataclass(frozen=True)
class CompressedTensors:
    """Which matrices are quantized shows by their tensors; the configuration says how."""

    name: str
    group_sizes: frozenset[int]  # columns that share a scale, in any scheme by groups
    stems: tuple[str, ...] = ("model",)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "CompressedTensors":
        """That of a `quantization_config`; raises ValueError for a scheme that is not read."""
        groups = config["config_groups"]
        for group in groups.values():
            _check_scheme(group, str(group.get("format") or config.get("format")))
        if config.get("kv_cache_scheme"):
            raise ValueError(f"it quantizes the KV cache too, which is not read; {INSTEAD}")
        sparsity = (config.get("sparsity_config") or {}).get("format", "dense")
        if sparsity != "dense":
            raise ValueError(f"format {sparsity!r} is sparse, which is not read; {INSTEAD}")
        schemes = {_scheme_text(group["weights"]) for group in groups.values()}
        sizes = {group["weights"].get("group_size") or 0 for group in groups.values()}
        return cls(f"compressed-tensors ({', '.join(sorted(schemes))})", frozenset(sizes))

    def matrix(self, name: str, shape: tuple[int, int], lookup: Lookup) -> StoredMatrix | None:
        """Of `X.weight`: `X.weight_packed`, or an int8 `X.weight`, with `X.weight_scale`."""
        rows, columns = shape
        packed, plain = lookup(name + "_packed"), lookup(name)
        if packed is None and (plain is None or plain[0] != "I8"):
            return None
        scales = lookup(name + "_scale")
        if scales is None:
            raise ValueError(f"{name}_scale is missing")
        if lookup(name + "_g_idx") is not None:
            raise ValueError(
                f"{name}_g_idx puts columns into groups in another order (actorder=group), which "
                "is not read; use actorder=weight or none"
            )
        if scales[1][:1] != (rows,) or len(scales[1]) > 2:
            raise ValueError(f"{name}_scale has shape {list(scales[1])} for {rows} rows")
        groups = scales[1][1] if len(scales[1]) == 2 else 1
        zeros = name + "_zero_point"
        return StoredMatrix(
            Layout.PLAIN if packed is None else Layout.PACKED,
            rows,
            columns,
            bits=8 if packed is None else _bits(packed[1], rows, columns),
            group=self._group(name, columns, groups),
            values=name if packed is None else name + "_packed",
            scales=name + "_scale",
            offsets=None if lookup(zeros) is None else zeros,
        )

    def _group(self, name: str, columns: int, groups: int) -> int:
        """Columns that share a scale, when a row has so many scales."""
        if groups == 1:
            return columns
        for size in self.group_sizes:
            if size > 0 and -(-columns // size) == groups:
                return size
        raise ValueError(f"{name}_scale has {groups} scales for {columns} columns")

    def extras(self, matrix: StoredMatrix) -> tuple[str, ...]:
        """The shape, which config.json gives too."""
        return (matrix.scales.removesuffix("_scale") + "_shape",)


def _check_scheme(group: Mapping[str, Any], storage: str) -> None:
    weights = group["weights"]
    if group.get("input_activations") is not None or group.get("output_activations") is not None:
        raise ValueError(f"it quantizes activations too (as W8A8), which is not read; {INSTEAD}")
    if weights["type"] != "int" or storage not in _FORMATS:
        raise ValueError(f"format {storage!r} ({weights['type']}) is not read; {INSTEAD}")
    if weights["num_bits"] not in (4, 8) or weights["strategy"] not in _STRATEGIES:
        raise ValueError(f"{_scheme_text(weights)} are not read; {INSTEAD}")


def _scheme_text(weights: Mapping[str, Any]) -> str:
    bits, strategy = weights["num_bits"], weights["strategy"]
    size = f"s of {weights['group_size']}" if strategy == "group" else ""
    return f"{bits} bits by {strategy}{size}"


def _bits(packed: tuple[int, ...], rows: int, columns: int) -> int:
    for bits in (4, 8):
        if packed == (rows, -(-columns * bits // 32)):
            return bits
    raise ValueError(f"packed integers {list(packed)} do not hold {rows} x {columns}")
