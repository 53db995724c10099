"""The gateway that a subcommand asks."""

from collections.abc import Iterator
from contextlib import contextmanager

from glm4v.client import Client
from glm4v.errors import Unavailable

_CONNECT_S = 1.0  # who waits at a terminal wants to know


@contextmanager
def gateway(server: str, timeout_s: float = 600.0) -> Iterator[Client]:
    """A client that has found it; raises Unavailable, with what to do, when there is none."""
    with Client(server, timeout_s=timeout_s) as client:
        try:
            client.connect(_CONNECT_S)
        except Unavailable as error:
            raise Unavailable(
                f"{error} `glm4v up` starts one, --server HOST:PORT names another"
            ) from None
        yield client
