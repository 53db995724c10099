"""An image goes up once, and again when the store has let it go."""

from hashlib import sha256

import pytest

from glm4v.client import AsyncClient, Client, sent_images
from glm4v.client.messages import assistant_message, user_message
from glm4v.client.sent_images import SentImages
from glm4v.errors import UnknownReference
from glm4v.v1 import inference_pb2 as pb
from tests.scripted_gateway import ScriptedGateway, serving

PICTURE = bytes(range(256)) * 64
DIGEST = sha256(PICTURE).hexdigest()
FIRST = [user_message("What is this?", PICTURE)]
NEXT = [*FIRST, assistant_message("A cat."), user_message("Sure?")]


def sent(gateway: ScriptedGateway) -> list[str]:
    """How each request had its image: as bytes or by digest."""
    kinds = [
        request.messages[0].parts[0].image.WhichOneof("source") for request in gateway.requests
    ]
    return [str(kind) for kind in kinds]


def test_an_image_goes_up_once() -> None:
    gateway = ScriptedGateway([])
    with serving(gateway) as (target, _), Client(target) as client:
        for messages in (FIRST, NEXT, FIRST):
            assert client.generate(messages).text
    assert sent(gateway) == ["data", "digest", "digest"]
    assert gateway.requests[1].messages[0].parts[0].image.digest == DIGEST
    assert gateway.requests[1].messages[1:] == NEXT[1:]
    assert NEXT[0].parts[0].image.data == PICTURE  # the caller's messages stay as they are


async def test_an_image_goes_up_once_with_asyncio() -> None:
    gateway = ScriptedGateway([])
    with serving(gateway) as (target, _):
        async with AsyncClient(target) as client:
            for messages in (FIRST, NEXT):
                assert await client.generate(messages).text()
    assert sent(gateway) == ["data", "digest"]


def test_an_image_that_the_store_has_let_go_is_sent_again() -> None:
    gateway = ScriptedGateway([])
    with serving(gateway) as (target, _), Client(target) as client:
        assert client.generate(FIRST).text
        gateway.images.clear()
        with client.generate(NEXT) as answer:
            assert answer.text
        assert client.generate(NEXT).text
    assert sent(gateway) == ["data", "digest", "data", "digest"]
    assert gateway.requests[1].request_id == gateway.requests[2].request_id


async def test_the_same_with_asyncio() -> None:
    gateway = ScriptedGateway([])
    with serving(gateway) as (target, _):
        async with AsyncClient(target) as client:
            assert await client.generate(FIRST).text()
            gateway.images.clear()
            assert await client.generate(NEXT).text()
    assert sent(gateway) == ["data", "digest", "data"]


def test_a_break_before_it_is_accepted_keeps_the_digest() -> None:
    gateway = ScriptedGateway([])
    with serving(gateway) as (target, _), Client(target) as client:
        assert client.generate(FIRST).text
        gateway.breaks = [0, 0]
        assert client.generate(FIRST).text
    assert sent(gateway) == ["data", "digest", "digest", "digest"]


def test_a_digest_that_the_user_names_is_the_users_matter() -> None:
    gateway = ScriptedGateway([])
    with serving(gateway) as (target, _), Client(target) as client:
        by_digest = [user_message("?", image_digest=DIGEST)]
        with pytest.raises(UnknownReference, match=f"no image {DIGEST}"):
            list(client.generate(by_digest))
        answer = client.generate(FIRST)
        assert answer.text
        assert answer.accepted is not None
        assert answer.accepted.image_digest == DIGEST
        assert client.generate(by_digest).text
    assert sent(gateway) == ["digest", "data", "digest"]


def test_the_oldest_digests_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_images, "_MAX_DIGESTS", 2)
    images = SentImages()
    request = pb.GenerateRequest(messages=FIRST)
    images.remember(DIGEST)
    images.remember("b")
    images.remember(DIGEST)  # used again
    images.remember("c")
    assert images.by_digest(request) is not None
    images.remember("d")
    images.remember("e")
    assert images.by_digest(request) is None
