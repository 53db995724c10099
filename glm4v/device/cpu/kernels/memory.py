"""Memory for what the kernels read again and again, in huge pages."""

import mmap
from contextlib import suppress

import torch

_CACHE_LINE_BYTES = 64
_HUGE_PAGE_BYTES = 2 * 2**20
_MANY_BYTES = 16 * 2**20


def kernel_memory(count: int) -> torch.Tensor:
    """`count` bytes aligned to cache lines, or to huge pages where there are many.

    The last huge page may be unused in part, but not of those that are many. torch's own memory
    would have more of them: it asks for huge pages to the end of what it has reserved.

    Raises RuntimeError or OSError if there is not enough memory.
    """
    if count < _HUGE_PAGE_BYTES // 2:
        few = torch.empty(count + _CACHE_LINE_BYTES, dtype=torch.uint8)
        start = -few.data_ptr() % _CACHE_LINE_BYTES
        return few[start : start + count]
    pages = -(-count // _HUGE_PAGE_BYTES) if count < _MANY_BYTES else count // _HUGE_PAGE_BYTES
    reserved = mmap.mmap(
        -1, count + 2 * _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    many = torch.frombuffer(reserved, dtype=torch.uint8)
    start = -many.data_ptr() % _HUGE_PAGE_BYTES
    with suppress(OSError, AttributeError):  # a kernel without them, another system
        reserved.madvise(mmap.MADV_HUGEPAGE, start, pages * _HUGE_PAGE_BYTES)
    return many[start : start + count]


def divided_memory(*counts: int) -> tuple[torch.Tensor, ...]:
    """Several of them in one piece, which ends in one page that is used in part."""
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + -(-count // _CACHE_LINE_BYTES) * _CACHE_LINE_BYTES)
    whole = kernel_memory(ends[-1])
    return tuple(whole[at : at + count] for at, count in zip(ends, counts, strict=False))
