"""The digest that tells a retried request from another one with the same id, in any release."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from glm4v.internal.v1 import journal_pb2
from glm4v.v1 import inference_pb2 as api

_VERSION = b"\x01"  # of the serialization
_IGNORED = ("request_id", "orphan_timeout_s", "return_prompt_ids", "priority", "cache_salt")
_SETS = ("stop", "stop_token_ids")


def content_digest(
    request: api.GenerateRequest, fingerprint: str, image_digest: str, owner: str
) -> bytes:
    """A version byte, then the SHA-256 of the model, the fields that are set, and the owner.

    Fields that are not set do not count, so a field or a default of another release changes
    nothing. Nor do fields that only name the request or change its scheduling. An image counts by
    its digest, whether it was sent as bytes or as a digest. The serialization is JSON in UTF-8
    without spaces: [fingerprint, fields], and [fingerprint, fields, owner] for an owner with a
    name. `fields` is [number, value] of each field that is set, by number. A message is its
    fields; a map is its sorted [key, value]; stop strings and stop token ids are sorted and unique.
    """
    content = [fingerprint, _fields(request, image_digest), *([owner] if owner else [])]
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return _VERSION + hashlib.sha256(text.encode()).digest()


def _fields(message: Message, image_digest: str) -> list[Any]:
    if isinstance(message, api.Image):
        return [[api.Image.DIGEST_FIELD_NUMBER, image_digest]]
    fields = []
    for field, value in message.ListFields():
        is_ignored = isinstance(message, api.GenerateRequest) and field.name in _IGNORED
        serialized = None if is_ignored else _value(field, value, image_digest)
        if serialized is not None:
            fields.append([field.number, serialized])
    return fields


def _value(field: FieldDescriptor, value: Any, image_digest: str) -> Any:
    """The value of a field for JSON; None for a message without fields."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return [[key, value[key]] for key in sorted(value)]
    if field.name in _SETS:
        return sorted(set(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_fields(one, image_digest) if isinstance(one, Message) else one for one in value]
    return _fields(value, image_digest) or None if isinstance(value, Message) else value


def former_digest(job: journal_pb2.Job, *, seed_is_set: bool) -> bytes:
    """The digest of older releases, for requests that are sent to gateways of both releases.

    To be removed with the next release.
    """
    sampling = job.sampling
    content = [
        job.fingerprint,
        list(job.prompt_ids),
        job.image_digest,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        sampling.repetition_penalty,
        sampling.seed if seed_is_set else None,
        job.max_tokens,
        list(job.stop_token_ids),
        sorted(set(job.stop)),
        job.top_logprobs if job.want_logprobs else None,
        sampling.min_p,
        sampling.typical_p,
        sampling.frequency_penalty,
        sampling.presence_penalty,
        sorted(sampling.logit_bias.items()),
        job.min_tokens,
        job.response_format.SerializeToString(deterministic=True).hex(),
        job.n,
        job.best_of,
        job.prompt_logprobs if job.want_prompt_logprobs else None,
    ]
    return hashlib.sha256(json.dumps(content).encode()).digest()
