"""Memory of the kernels: aligned, and in huge pages where there are many bytes."""

import mmap
import os
from pathlib import Path

import pytest

from glm4v.device.cpu.kernels.memory import divided_memory, kernel_memory

MIB = 2**20


def anonymous_bytes() -> int:
    """Those of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.parametrize(
    ("count", "alignment"), [(1, 64), (MIB - 1, 64), (MIB, 2 * MIB), (17 * MIB + 3, 2 * MIB)]
)
def test_it_is_aligned(count: int, alignment: int) -> None:
    memory = kernel_memory(count)
    assert len(memory) == count
    assert memory.data_ptr() % alignment == 0
    memory.fill_(7)
    assert int(memory[-1]) == 7


def test_parts_share_the_last_page() -> None:
    parts = divided_memory(17 * MIB + 3, 0, 5 * MIB)
    assert [len(part) for part in parts] == [17 * MIB + 3, 0, 5 * MIB]
    assert parts[2].data_ptr() - parts[0].data_ptr() == 17 * MIB + 64


def test_many_bytes_take_no_more_than_they_are() -> None:
    """A huge page that ends behind them would take a part of 2 MiB more."""
    before = anonymous_bytes()
    memory = kernel_memory(16 * MIB + mmap.PAGESIZE)
    memory.fill_(1)
    taken = anonymous_bytes() - before
    assert 16 * MIB <= taken <= 17 * MIB


def test_it_is_given_back() -> None:
    before = anonymous_bytes()
    memory = kernel_memory(64 * MIB)
    part = memory[:5]
    memory.fill_(1)
    del memory
    assert anonymous_bytes() - before > 60 * MIB  # a part keeps the whole
    del part
    assert anonymous_bytes() - before < 4 * MIB


def test_without_huge_pages_there_are_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12345)  # an advice that no kernel knows
    with pytest.raises(OSError, match=os.strerror(22)):
        mmap.mmap(-1, mmap.PAGESIZE).madvise(mmap.MADV_HUGEPAGE)
    assert int(kernel_memory(MIB).fill_(3)[-1]) == 3


def test_too_many_bytes_are_out_of_memory() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        kernel_memory(2**60)
