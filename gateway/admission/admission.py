"""Request to job: all fields are checked and all defaults resolved before it is accepted.

Runs in a thread, because tokenizing megabytes of text takes seconds.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread

from gateway.access.caller import Caller
from gateway.admission.content_digest import content_digest, former_digest
from gateway.admission.messages import read_messages
from gateway.admission.response_format import check_response_format
from gateway.admission.sampling import SamplingDefaults, resolve
from gateway.admission.token_ids import read_token_ids
from gateway.admission.validation import (
    check_cache_salt,
    check_logit_bias,
    check_range,
    check_request_id,
    check_stop_token_ids,
    check_stops,
    refuse_unknown_fields,
)
from gateway.text.prompt import Prompt, header_id, render
from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.spec import ModelSpec
from glm4v.errors import ContextExceeded, InvalidRequest
from glm4v.images import ImageLimits, inspect
from glm4v.internal.v1 import journal_pb2
from glm4v.v1 import inference_pb2 as api

_DEFAULT_MAX_TOKENS = 1024
_DEFAULT_ORPHAN_TIMEOUT_S = 10.0
_DEFAULT_PRIORITY = 3
_MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 16
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Limits from the settings of a gateway."""

    images: ImageLimits
    default_deadline_s: float
    max_deadline_s: float


@dataclass(frozen=True, slots=True)
class Admitted:
    """A valid request."""

    job: journal_pb2.Job
    image: bytes | None  # the image file, if the request contains it


class Admission:
    """Checks requests for one model and makes their jobs."""

    def __init__(
        self,
        spec: ModelSpec,
        fingerprint: str,
        tokenizer: Tokenizer,
        defaults: SamplingDefaults,
        limits: AdmissionLimits,
    ) -> None:
        self._spec = spec
        self._fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._limits = limits

    async def admit(
        self, request: api.GenerateRequest, caller: Caller, time_limit_s: float | None
    ) -> Admitted:
        """Check a request and make its job, whose deadline is `time_limit_s` from now.

        Without a time limit the default deadline holds. Raises InvalidRequest, and Overloaded for
        an image of too many bytes.
        """
        wanted_s = self._limits.default_deadline_s if time_limit_s is None else time_limit_s
        deadline = time.monotonic() + min(wanted_s, self._limits.max_deadline_s)
        admitted = await anyio.to_thread.run_sync(self._admit, request, caller)
        admitted.job.timeout_ms = max(1, int(1000 * (deadline - time.monotonic())))
        return admitted

    async def count(self, request: api.CountTokensRequest) -> Prompt:
        """The prompt of a conversation, even one longer than the context. Raises as `admit`."""
        prompt, _, _ = await anyio.to_thread.run_sync(self._read_conversation, request)
        return prompt

    def _admit(self, request: api.GenerateRequest, caller: Caller) -> Admitted:
        self._check_fields(request)
        prompt, image_digest, image = self._read_prompt(request)
        stop_token_ids = set(request.stop_token_ids)
        if not request.ignore_eos:
            stop_token_ids.update(self._spec.eos_ids)
        max_tokens = self._max_tokens(request, len(prompt.ids))
        if request.min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens is {request.min_tokens}; 0 to {max_tokens} (max_tokens) is allowed"
            )
        job = journal_pb2.Job(
            request_id=request.request_id or secrets.token_hex(16),
            fingerprint=self._fingerprint,
            prompt_ids=prompt.ids,
            image_digest=image_digest,
            sampling=resolve(request.sampling, self._defaults.params, seed=secrets.randbits(64)),
            max_tokens=max_tokens,
            min_tokens=request.min_tokens,
            stop_token_ids=sorted(stop_token_ids),
            want_logprobs=request.HasField("top_logprobs"),
            top_logprobs=request.top_logprobs,
            stop=request.stop,
            orphan_timeout_ms=_orphan_timeout_ms(request),
            priority=request.priority if request.HasField("priority") else _DEFAULT_PRIORITY,
            cache_salt=caller.cache_salt(request.cache_salt),
            n=request.n if request.HasField("n") else 1,
            want_prompt_logprobs=request.HasField("prompt_logprobs"),
            prompt_logprobs=request.prompt_logprobs,
            tokenizer_digest=self._tokenizer.digest,
            image_tokens=self._spec.vision.num_image_tokens if image_digest else 0,
            owner=caller.owner,
            client=caller.share,
            traceparent=caller.traceparent,
        )
        if prompt.ids[-1] == self._tokenizer.special_id("<|assistant|>"):
            job.header_id = header_id(self._tokenizer)
        job.best_of = request.best_of if request.HasField("best_of") else job.n
        if request.HasField("response_format"):
            job.response_format.CopyFrom(request.response_format)
        job.content_digest = content_digest(request, self._fingerprint, image_digest, caller.owner)
        if not caller.owner:  # older releases have anonymous callers only
            job.former_digest = former_digest(job, seed_is_set=request.sampling.HasField("seed"))
        return Admitted(job, image)

    def _check_fields(self, request: api.GenerateRequest) -> None:
        if request.request_id:
            check_request_id(request.request_id)
        check_stops(request.stop)
        check_stop_token_ids(request.stop_token_ids, self._spec.vocab_size)
        check_range("top_logprobs", request.top_logprobs, 0, _MAX_TOP_LOGPROBS)
        check_range("prompt_logprobs", request.prompt_logprobs, 0, _MAX_TOP_LOGPROBS)
        if request.HasField("n"):
            check_range("n", request.n, 1, MAX_CHOICES)
        if request.HasField("best_of"):
            check_range("best_of", request.best_of, request.n or 1, MAX_CHOICES)
        check_logit_bias(request.sampling.logit_bias, self._spec.tokens)
        check_cache_salt(request.cache_salt)
        if request.HasField("priority"):
            check_range("priority", request.priority, 1, 5)
        if request.HasField("response_format"):
            check_response_format(request.response_format)

    def _read_prompt(self, request: api.GenerateRequest) -> tuple[Prompt, str, bytes | None]:
        """As `_read_conversation`, of messages or of token ids, and truncated."""
        if request.prompt_ids:
            refuse_unknown_fields(request)
            prompt, digest, image = read_token_ids(request, self._spec), "", None
        else:
            prompt, digest, image = self._read_conversation(request)
        if request.HasField("truncate_prompt_tokens"):
            check_range("truncate_prompt_tokens", request.truncate_prompt_tokens, 1, 2**32 - 1)
            prompt.truncate(request.truncate_prompt_tokens)
        return prompt, digest, image

    def _read_conversation(
        self, request: api.GenerateRequest | api.CountTokensRequest
    ) -> tuple[Prompt, str, bytes | None]:
        """The prompt, the image's digest (empty without an image) and its bytes, if sent."""
        self._check_count(request.messages)
        refuse_unknown_fields(request)
        conversation = read_messages(request.messages)
        prompt = render(conversation.turns, self._tokenizer)
        image = conversation.image
        if image is None:
            return prompt, "", None
        if image.WhichOneof("source") == "data":
            inspect(image.data, self._limits.images)
            return prompt, hashlib.sha256(image.data).hexdigest(), image.data
        if _DIGEST.fullmatch(image.digest) is None:
            raise InvalidRequest(
                f"image.digest is {image.digest[:80]!r} ({len(image.digest)} characters); "
                "send the 64 lower-case hexadecimal digits of a SHA-256"
            )
        return prompt, image.digest, None

    def _check_count(self, messages: Sequence[api.Message]) -> None:
        """Refuse more messages or parts than the context has tokens, before reading them."""
        parts = max(len(messages), sum(len(message.parts) for message in messages))
        if parts > self._spec.context_tokens:
            raise ContextExceeded(
                f"the prompt is too long: messages has {len(messages)} messages and {parts} parts; "
                f"this model's maximum context length is {self._spec.context_tokens} tokens; "
                "leave out the oldest"
            )

    def _max_tokens(self, request: api.GenerateRequest, prompt_tokens: int) -> int:
        context = self._spec.context_tokens
        available = context - prompt_tokens
        if available < 1:
            raise ContextExceeded(
                f"the prompt is too long: {prompt_tokens} tokens; this model's maximum context "
                f"length is {context} tokens, with at least one for the answer; "
                "shorten the conversation"
            )
        if not request.HasField("max_tokens"):
            return min(self._defaults.max_tokens or _DEFAULT_MAX_TOKENS, available)
        if not 1 <= request.max_tokens <= available:
            kind = ContextExceeded if request.max_tokens else InvalidRequest
            raise kind(
                f"max_tokens is {request.max_tokens}; 1 to {available} is allowed after a prompt "
                f"of {prompt_tokens} tokens: this model's maximum context length is {context} "
                "tokens"
            )
        return request.max_tokens


def _orphan_timeout_ms(request: api.GenerateRequest) -> int:
    orphan_timeout_s = (
        request.orphan_timeout_s
        if request.HasField("orphan_timeout_s")
        else _DEFAULT_ORPHAN_TIMEOUT_S
    )
    check_range("orphan_timeout_s", orphan_timeout_s, 0, 3600)
    return int(1000 * orphan_timeout_s)
