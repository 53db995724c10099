"""How workers wait for Redis: without a limit, because leases and deadlines bound the work."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from glm4v.errors import Overloaded, Unavailable

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_PAUSE_S = 0.2
_LOG_EVERY = 25


async def retry_until_available(
    call: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs
) -> _T:
    """Repeat a call while Redis is away or out of memory; only cancellation ends it early."""
    tries = 0
    while True:
        try:
            return await call(*args, **kwargs)
        except (Unavailable, Overloaded) as error:
            if tries % _LOG_EVERY == 0:
                log.warning("waiting for Redis: %s", error)
            tries += 1
            await asyncio.sleep(_PAUSE_S)
