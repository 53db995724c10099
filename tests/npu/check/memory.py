"""The memory of an NPU, by who holds it."""

from collections.abc import Iterator
from dataclasses import dataclass

from glm4v.device import Device

ASSUMED = 2e9  # bytes for driver and CANN in the table of docs/ascend.md


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    total: int
    free: int
    tensors: int  # that this process's allocator holds

    @property
    def others(self) -> int:
        """What driver, CANN, HCCL and other processes hold."""
        return self.total - self.free - self.tensors


def memory(device: Device) -> Memory:
    """Now, as the driver and the allocator count it."""
    import torch_npu

    free, total = torch_npu.npu.mem_get_info(device.torch_device)
    return Memory(total, free, torch_npu.npu.memory_reserved(device.torch_device))


def at_rest(device: Device) -> Iterator[str]:
    """What is gone before a weight is read, beside what the documentation's table assumes."""
    found = memory(device)
    yield (
        f"{found.total / 1e9:.2f} GB in all, {found.free / 1e9:.2f} GB free; driver, CANN and "
        f"other processes hold {found.others / 1e9:.2f} GB, where docs/ascend.md assumes "
        f"{ASSUMED / 1e9:.0f} GB."
    )
