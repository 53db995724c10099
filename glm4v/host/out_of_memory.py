"""Running out of memory, by whichever name it comes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from glm4v.errors import Overloaded

_OF_TORCH = ("torch", "OutOfMemoryError")  # which is not imported for this

# What is said by things that have no type for it: torch's allocators, the system, and threads that
# find no room for their stacks.
_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "can't start new thread",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, the system, or a device's allocator says so."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kind = type(error)
    if isinstance(error, MemoryError) or (kind.__module__, kind.__name__) == _OF_TORCH:
        return True
    return any(text in str(error) for text in _TEXTS)


@contextmanager
def out_of_memory_as_overloaded(message: str) -> Iterator[None]:
    """Raise Overloaded(message) in place of what runs out of memory inside."""
    try:
        yield
    except Overloaded:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise Overloaded(message) from error
