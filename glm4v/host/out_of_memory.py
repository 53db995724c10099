"""Recognizes errors that mean: out of memory."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from glm4v.errors import Overloaded

_OF_TORCH = ("torch", "OutOfMemoryError")  # without importing torch

# Messages of errors without a type of their own: torch's allocators, the system, and threads whose
# stacks cannot be allocated.
_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "can't start new thread",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, the system, or torch ran out of memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kind = type(error)
    if isinstance(error, MemoryError) or (kind.__module__, kind.__name__) == _OF_TORCH:
        return True
    return any(text in str(error) for text in _TEXTS)


@contextmanager
def out_of_memory_as_overloaded(
    message: str, is_out_of_memory: Callable[[Exception], bool] = is_out_of_memory
) -> Iterator[None]:
    """Raise Overloaded(message) for errors inside that mean out of memory.

    A device has its own test for them.
    """
    try:
        yield
    except Overloaded:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise Overloaded(message) from error
