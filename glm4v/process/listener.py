"""What a process needs of each thing that takes calls on an address."""

from typing import Protocol

from glm4v.process.health import Health


class Listener(Protocol):
    """Takes calls of one protocol on one address.

    A process starts its listeners in order. To drain, all of them refuse calls, then all of them
    stop; see `glm4v.process.service`.
    """

    async def start(self, health: Health) -> None:
        """Listen from now on. Calls may ask for the health of the process.

        Raises ConfigurationError or Unavailable where it cannot listen.
        """

    async def refuse(self) -> None:
        """Refuse new calls, in the terms of the protocol, so that clients go elsewhere."""

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls in progress may take another `grace_s` seconds, then are ended."""
