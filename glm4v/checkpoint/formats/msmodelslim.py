"""msmodelslim, the tool for Ascend, in W8A16: int8 with a scale and an offset in float32.

Source: the savers of msmodelslim 26.1.0. A value is (integer - offset) x scale; operators of the
NPU add the offset. quant_model_description.json gives each tensor's type by its name; nothing in
config.json has to tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v.checkpoint.files import read_json_object
from glm4v.checkpoint.formats.methods import INSTEAD
from glm4v.checkpoint.formats.stored_matrix import Layout, Lookup, StoredMatrix
from glm4v.errors import CheckpointError

_DESCRIPTIONS = ("quant_model_description.json", "quant_model_description_w8a16.json")
_STEMS = ("quant_model_weights", "quant_model_weight", "quant_model_weight_w8a16")
_READ = ("FLOAT", "W8A16")


@dataclass(frozen=True)
class MsModelSlim:
    """The types of a description; how long groups are shows by the scales."""

    types: Mapping[str, Any]
    name: str = "msmodelslim (W8A16)"
    stems: tuple[str, ...] = _STEMS

    @classmethod
    def find(cls, directory: Path) -> "MsModelSlim | None":
        """The format of a folder with a description; None without one.

        Raises CheckpointError for types that are not read.
        """
        path = next(
            (directory / name for name in _DESCRIPTIONS if (directory / name).exists()), None
        )
        if path is None:
            return None
        types = read_json_object(path)
        for name, found in types.items():
            if "." in name and found not in _READ:
                raise CheckpointError(
                    f"{path}: quantized by msmodelslim, {name} as {found}; W8A16 is read: {INSTEAD}"
                )
        return cls(types)

    def matrix(self, name: str, shape: tuple[int, int], lookup: Lookup) -> StoredMatrix | None:
        """Of `X.weight`: an int8 `X.weight`, with `X.weight_scale` and `X.weight_offset`."""
        rows, columns = shape
        if self.types.get(name) != "W8A16":
            return None
        scales = lookup(name + "_scale")
        if scales is None or scales[1][:1] != (rows,) or len(scales[1]) > 2:
            raise ValueError(f"{name}_scale is missing, or its shape does not fit {rows} rows")
        groups = scales[1][1] if len(scales[1]) == 2 else 1
        if groups < 1 or columns % groups:
            raise ValueError(f"{name}_scale has {groups} scales for {columns} columns")
        offsets = name + "_offset"
        return StoredMatrix(
            Layout.PLAIN,
            rows,
            columns,
            bits=8,
            group=columns // groups,
            values=name,
            scales=name + "_scale",
            offsets=None if lookup(offsets) is None else offsets,
        )

    def extras(self, matrix: StoredMatrix) -> tuple[str, ...]:
        """None."""
        return ()
