"""Bounds how much freed memory the C library keeps."""

import ctypes

_M_ARENA_MAX = -8  # <malloc.h>
_ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share two heaps of glibc's; to be called before threads start.

    Otherwise there are up to eight heaps for each core, and none gives back what is free below its
    last block: messages of a hundred megabytes in all then take more than a gigabyte. Other C
    libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_ARENA_MAX, _ARENAS)
