"""What the errors of torch_npu mean: they are RuntimeErrors of many lines."""

import re

import torch

# The codes that torch_npu puts behind what CANN reported: of its own runtime (PTA), of operators,
# and of HCCL, a collective operation that timed out among them.
_FAILURE = re.compile(r"\bERR\d{5} (PTA|OPS|DIST) ")
# What CANN says where torch_npu's allocator does not ask: rt_error_codes.h, MEMORY_ALLOCATION
# ("only used by out of memory") and DEVICE_OOM.
_NO_MEMORY = re.compile(r"\berror code is (207001|207018)\b")


def is_out_of_memory(error: Exception) -> bool:
    """Whether CANN found no memory on the device."""
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def device_failure(error: RuntimeError) -> str | None:
    """In one line what failed on the device; None for errors that are not the device's."""
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
        return None
    if not _FAILURE.search(str(error)):
        return None
    return first_line(error)


def first_line(error: Exception) -> str:
    """What failed; the other lines name log files and processes."""
    return str(error).partition("\n")[0].strip()
