"""What the errors of torch_npu mean: they are RuntimeErrors of many lines."""

import re

import torch

# The codes that torch_npu puts behind what CANN reported: of its own runtime (PTA), of operators,
# and of HCCL, a collective operation that timed out among them.
_FAILURE = re.compile(r"\bERR\d{5} (PTA|OPS|DIST) ")


def device_failure(error: RuntimeError) -> str | None:
    """In one line what failed on the device; None for errors that are not the device's."""
    if isinstance(error, torch.OutOfMemoryError) or not _FAILURE.search(str(error)):
        return None
    return first_line(error)


def first_line(error: Exception) -> str:
    """What failed; the other lines name log files and processes."""
    return str(error).partition("\n")[0].strip()
