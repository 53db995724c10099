"""What rank 0 tells the other ranks, as bytes: plans, images, and that it is alive."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from glm4v.tensor_bytes import TensorBytes, pack, unpack
from lm_worker.plan import StepPlan

_PLANS = TypeAdapter(StepPlan)


@dataclass(frozen=True, slots=True)
class AddImage:
    """Keep an image's rows."""

    digest: str
    rows: TensorBytes


@dataclass(frozen=True, slots=True)
class DropImage:
    """Forget an image's rows."""

    digest: str


@dataclass(frozen=True, slots=True)
class Beat:
    """Nothing to do; rank 0 lives."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the group and end."""


Command = StepPlan | AddImage | DropImage | Beat | Stop


def encode(command: Command) -> bytes:
    """One letter for the kind, then its content; plans as JSON, images as tensor bytes."""
    match command:
        case StepPlan():
            return b"p" + _PLANS.dump_json(command)
        case AddImage(digest, rows):
            name = digest.encode()
            return b"a" + len(name).to_bytes(2, "little") + name + pack(rows)
        case DropImage(digest):
            return b"d" + digest.encode()
        case Beat():
            return b"b"
        case Stop():
            return b"s"


def decode(data: bytes) -> Command:
    """What `encode` was given."""
    kind, content = data[:1], data[1:]
    if kind == b"p":
        return _PLANS.validate_json(content)
    if kind == b"a":
        end = 2 + int.from_bytes(content[:2], "little")
        return AddImage(content[2:end].decode(), unpack(content[end:]))
    if kind == b"d":
        return DropImage(content.decode())
    if kind == b"b":
        return Beat()
    assert kind == b"s", f"unknown command {kind!r}"
    return Stop()
