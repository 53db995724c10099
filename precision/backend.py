"""Names of backends: `cpu`, `npu,dtype=float16`, `cpu,weight_dtype=bfloat16,tensor_parallel=2`."""

from dataclasses import dataclass
from typing import Any

from glm4v.errors import InvalidRequest
from offline.rank_group import Hardware

_DTYPES = ("dtype", "weight_dtype")
_NUMBERS = ("tensor_parallel", "threads")


@dataclass(frozen=True, slots=True)
class Backend:
    """What one side of a comparison computes with, and how it was named."""

    text: str
    hardware: Hardware

    @classmethod
    def parse(cls, text: str) -> "Backend":
        """DEVICE[,NAME=VALUE]…; the names are those of the fields of `Hardware`.

        Raises InvalidRequest that says what is accepted. Device and dtypes are checked when the
        device is opened.
        """
        device, *settings = text.split(",")
        if not device or "=" in device:
            raise InvalidRequest(f"{text!r} begins with no device; write cpu,dtype=bfloat16")
        values: dict[str, Any] = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals or name not in (*_DTYPES, *_NUMBERS) or name in values:
                raise InvalidRequest(
                    f"{text!r} names no backend at {setting!r}; write a device and any of "
                    f"{', '.join(f'{each}=…' for each in (*_DTYPES, *_NUMBERS))}, each once, with "
                    "commas between: cpu,dtype=bfloat16,tensor_parallel=2"
                )
            values[name] = _number(text, name, value) if name in _NUMBERS else value
        return cls(text, Hardware(device, **values))


def _number(text: str, name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or int(value) == 0:
        raise InvalidRequest(f"{text!r}: {name} is {value!r}; a whole number above 0 is needed")
    return int(value)
