"""The connection of a subcommand to a gateway."""

from collections.abc import Iterator
from contextlib import contextmanager

from glm4v.client import Client
from glm4v.errors import Unavailable

_CONNECT_S = 1.0  # short, for a user at a terminal


@contextmanager
def gateway(server: str, timeout_s: float = 600.0) -> Iterator[Client]:
    """A connected client. Raises Unavailable, with advice, if no gateway answers."""
    with Client(server, timeout_s=timeout_s) as client:
        try:
            client.connect(_CONNECT_S)
        except Unavailable as error:
            raise Unavailable(
                f"{error} `glm4v up` starts one; --server HOST:PORT selects another"
            ) from None
        yield client
