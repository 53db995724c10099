"""Which of the workers that share hardware goes first."""

from abc import ABC, abstractmethod


class Arbiter(ABC):
    """Lets prefills go before the next image of a vision worker, and images before decodes."""

    @abstractmethod
    def set_prefilling(self, is_prefilling: bool) -> None:
        """Say whether there is something to prefill; called by language workers."""

    @abstractmethod
    def wait_for_prefills(self) -> None:
        """Return once no language worker prefills, or after a bounded time; called before images.

        Blocks the calling thread.
        """

    @abstractmethod
    def layer_done(self) -> None:
        """Say that an image is being encoded; called after each of its layers."""

    @abstractmethod
    def encode_done(self) -> None:
        """Say that an image was encoded, or given up; called after each."""

    @property
    @abstractmethod
    def is_encoding(self) -> bool:
        """Whether a vision worker encodes an image, and gets on; asked by language workers."""


class NoArbiter(Arbiter):
    """For workers that share no hardware: nothing waits."""

    def set_prefilling(self, is_prefilling: bool) -> None:
        """Do nothing."""

    def wait_for_prefills(self) -> None:
        """Return at once."""

    def layer_done(self) -> None:
        """Do nothing."""

    def encode_done(self) -> None:
        """Do nothing."""

    @property
    def is_encoding(self) -> bool:
        """False: no image takes this worker's hardware."""
        return False
