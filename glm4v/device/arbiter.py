"""Which of the workers that share hardware goes first."""

from abc import ABC, abstractmethod


class Arbiter(ABC):
    """Lets language prefills go before the next image of a vision worker."""

    @abstractmethod
    def set_prefilling(self, is_prefilling: bool) -> None:
        """Say whether there is something to prefill; called by language workers."""

    @abstractmethod
    def wait_for_prefills(self) -> None:
        """Return once no language worker prefills, or after a bounded time; called before images.

        Blocks the calling thread.
        """

    @abstractmethod
    def encode_done(self) -> None:
        """Say that an image was encoded; called after each."""


class NoArbiter(Arbiter):
    """For workers that share no hardware: nothing waits."""

    def set_prefilling(self, is_prefilling: bool) -> None:
        """Do nothing."""

    def wait_for_prefills(self) -> None:
        """Return at once."""

    def encode_done(self) -> None:
        """Do nothing."""
