"""Requests to break things under, and the check that nothing of them was broken."""

import hashlib
import random
import uuid
from io import BytesIO

from PIL import Image

from glm4v.v1 import inference_pb2 as api
from tests.e2e.fleet import Fleet
from tests.e2e.journals import Journal, read_journal
from tests.e2e.reading import Reading

TOKENS = 12


def draw(name: str) -> bytes:
    """A small image that no other name gives."""
    noise = random.Random(name)
    image = Image.frombytes("RGB", (24, 24), noise.randbytes(3 * 24 * 24))
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def digest_of(image: bytes) -> str:
    """What an image is called."""
    return hashlib.sha256(image).hexdigest()


def ask(
    text: str,
    image: bytes | None = None,
    *,
    seed: int | None = None,
    max_tokens: int = TOKENS,
) -> api.GenerateRequest:
    """A request with an id of its own: greedy, or sampled at temperature 1 with a seed."""
    parts = [api.ContentPart(text=text)]
    if image is not None:
        parts.append(api.ContentPart(image=api.Image(data=image)))
    sampling = api.SamplingParams(temperature=0)
    if seed is not None:
        sampling = api.SamplingParams(temperature=1, top_p=1, seed=seed)
    return api.GenerateRequest(
        request_id=uuid.uuid4().hex,
        messages=[api.Message(role=api.ROLE_USER, parts=parts)],
        sampling=sampling,
        max_tokens=max_tokens,
        ignore_eos=True,
    )


def again(request: api.GenerateRequest) -> api.GenerateRequest:
    """The same question as another request."""
    copy = api.GenerateRequest()
    copy.CopyFrom(request)
    copy.request_id = uuid.uuid4().hex
    return copy


async def assert_unharmed(fleet: Fleet, reading: Reading, undisturbed: Reading) -> Journal:
    """Client and journal have each token once and one end, as if nothing had happened."""
    assert reading.terminal == ["finished"], reading.details
    assert (reading.duplicated, reading.missing) == (0, 0)
    assert reading.token_ids == undisturbed.token_ids
    assert reading.text == undisturbed.text
    journal = await read_journal(fleet.connection, fleet.keys, reading.request_id)
    assert journal is not None
    assert len(journal.ends) == 1
    assert not journal.is_behind_end
    assert (journal.duplicated, journal.missing) == (0, 0)
    assert journal.token_ids == undisturbed.token_ids
    return journal


def encodes(fleet: Fleet, image: bytes) -> int:
    """How often an image's embedding was stored, over all lives of all vision workers."""
    return fleet.logs("vision_worker").count(f"image={digest_of(image)} encoded")
