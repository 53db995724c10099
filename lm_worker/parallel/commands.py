"""Commands of rank 0 to the other ranks, and their encoding."""

from dataclasses import dataclass

from glm4v.tensor_bytes import TensorBytes, pack, unpack
from lm_worker.parallel.plan_delta import PlanDecoder, PlanEncoder
from lm_worker.plan import StepPlan


@dataclass(frozen=True, slots=True)
class AddImage:
    """Keep an image's embedding."""

    digest: str
    embedding: TensorBytes


@dataclass(frozen=True, slots=True)
class DropImage:
    """Free an image's embedding."""

    digest: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Rank 0 is alive; nothing to execute."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the group and exit."""


Command = StepPlan | AddImage | DropImage | Heartbeat | Stop


class CommandEncoder:
    """Encodes the commands of one group, in order."""

    def __init__(self) -> None:
        self._plans = PlanEncoder()

    def encode(self, command: Command) -> bytes:
        """A letter for the kind, then the content: plans as JSON, images as tensor bytes."""
        match command:
            case StepPlan():
                return b"p" + self._plans.encode(command)
            case AddImage(digest, embedding):
                name = digest.encode()
                return b"a" + len(name).to_bytes(2, "little") + name + pack(embedding)
            case DropImage(digest):
                return b"d" + digest.encode()
            case Heartbeat():
                return b"b"
            case Stop():
                return b"s"


class CommandDecoder:
    """Decodes what one `CommandEncoder` encoded, in order."""

    def __init__(self) -> None:
        self._plans = PlanDecoder()

    def decode(self, data: bytes) -> Command:
        """The command in the bytes of `encode`; a plan without its sampling."""
        kind, content = data[:1], data[1:]
        if kind == b"p":
            return self._plans.decode(content)
        if kind == b"a":
            end = 2 + int.from_bytes(content[:2], "little")
            return AddImage(content[2:end].decode(), unpack(content[end:]))
        if kind == b"d":
            return DropImage(content.decode())
        if kind == b"b":
            return Heartbeat()
        assert kind == b"s", f"unknown command {kind!r}"
        return Stop()
