"""Errors of redis-py, as errors of `glm4v.errors`."""

import pytest
from redis.exceptions import InvalidResponse

from glm4v.broker.connection import map_redis_errors


async def test_a_reply_without_memory_is_a_memory_error() -> None:
    """hiredis 3.4 raises it from a reply of megabytes, with the address space used up."""
    with pytest.raises(MemoryError, match="no memory for a reply of Redis"):
        async with map_redis_errors():
            raise InvalidResponse("Out of memory")


async def test_a_reply_that_is_not_of_redis_stays_an_error_of_its_own() -> None:
    with pytest.raises(InvalidResponse, match="Protocol error"):
        async with map_redis_errors():
            raise InvalidResponse("Protocol error, got '<' as reply type byte")
