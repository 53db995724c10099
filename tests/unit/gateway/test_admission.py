"""From requests to jobs: what is refused, what is filled in, what makes two requests the same."""

import hashlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from google.protobuf.message import Message
from PIL import Image

from gateway.access.caller import Caller
from gateway.admission.admission import Admission, AdmissionLimits, Admitted
from gateway.admission.sampling import SamplingDefaults
from glm4v.errors import Glm4vError, InvalidRequest, Overloaded
from glm4v.images import ImageLimits
from glm4v.v1 import inference_pb2 as api
from tests.vocabularies import byte_tokenizer, small_spec

EOS = [256, 263, 265]
DEFAULTS = api.SamplingParams(
    temperature=0.5, top_p=0.75, top_k=0, repetition_penalty=1, min_p=0, typical_p=1
)
Change = Callable[[api.GenerateRequest], object]


def admission() -> Admission:
    return Admission(
        small_spec(),
        "model-a",
        byte_tokenizer(),
        SamplingDefaults(DEFAULTS),
        AdmissionLimits(
            ImageLimits(max_bytes=4000, max_pixels=900),
            default_deadline_s=600,
            max_deadline_s=3600,
        ),
    )


def request(text: str = "hello") -> api.GenerateRequest:
    parts = [api.ContentPart(text=text)]
    return api.GenerateRequest(messages=[api.Message(role=api.ROLE_USER, parts=parts)])


def with_image(image: api.Image) -> api.GenerateRequest:
    asked = request()
    asked.messages[0].parts.add(image=image)
    return asked


def image(width: int = 4, height: int = 3) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


async def admit(asked: api.GenerateRequest, time_limit_s: float | None = None) -> Admitted:
    return await admission().admit(asked, Caller(), time_limit_s)


async def test_what_is_not_set_is_filled_in() -> None:
    job = (await admit(request())).job
    assert list(job.prompt_ids) == [258, 260, 263, 10, *b"hello", 264]
    assert job.fingerprint == "model-a"
    assert (job.sampling.temperature, job.sampling.top_p) == (0.5, 0.75)
    assert (job.sampling.top_k, job.sampling.repetition_penalty) == (0, 1)
    assert job.max_tokens == 512 - 10
    assert list(job.stop_token_ids) == EOS
    assert not job.want_logprobs
    assert job.orphan_timeout_ms == 10_000
    assert job.request_id
    assert job.image_digest == ""


async def test_what_is_set_is_taken() -> None:
    asked = request()
    asked.request_id = "a.B_c-1"
    asked.sampling.temperature = 0
    asked.sampling.top_p = 1
    asked.sampling.top_k = 7
    asked.sampling.repetition_penalty = 0.1
    asked.sampling.seed = 2**64 - 1
    asked.max_tokens = 502
    asked.stop.append("é" * 128)
    asked.stop_token_ids.append(319)
    asked.top_logprobs = 20
    asked.orphan_timeout_s = 0
    job = (await admit(asked)).job
    assert job.request_id == "a.B_c-1"
    assert job.sampling.temperature == 0
    assert (job.sampling.top_k, job.sampling.seed) == (7, 2**64 - 1)
    assert job.max_tokens == 502
    assert list(job.stop) == ["é" * 128]
    assert list(job.stop_token_ids) == [*EOS, 319]
    assert (job.want_logprobs, job.top_logprobs) == (True, 20)
    assert job.orphan_timeout_ms == 0


async def test_rules_and_form_are_taken_and_off_where_nothing_is_said() -> None:
    asked = request()
    plain = (await admit(asked)).job
    assert (plain.sampling.typical_p, plain.sampling.min_p, plain.priority) == (1.0, 0.0, 3)
    assert not plain.HasField("response_format")
    asked.sampling.min_p = 0.25
    asked.sampling.typical_p = 0.5
    asked.sampling.frequency_penalty = -2
    asked.sampling.presence_penalty = 2
    asked.sampling.logit_bias.update({0: -100.0, 269: 100.0})
    asked.min_tokens, asked.priority, asked.cache_salt = 502, 5, "tenant"
    asked.response_format.choice.options.extend(["a", "b"])
    job = (await admit(asked)).job
    rules = job.sampling
    assert (rules.min_p, rules.typical_p) == (0.25, 0.5)
    assert (rules.frequency_penalty, rules.presence_penalty) == (-2, 2)
    assert dict(rules.logit_bias) == {0: -100.0, 269: 100.0}
    assert (job.min_tokens, job.priority, job.cache_salt) == (502, 5, "tenant")
    assert job.response_format == asked.response_format


async def test_the_models_own_ends_can_be_ignored() -> None:
    asked = request()
    asked.ignore_eos = True
    asked.stop_token_ids.append(65)
    assert list((await admit(asked)).job.stop_token_ids) == [65]


@pytest.mark.parametrize(
    ("of_checkpoint", "most"), [(None, 1024), (300, 300), (4000, 4000), (9000, 8182)]
)
async def test_the_answer_is_as_long_as_the_checkpoint_says_or_1024_tokens(
    of_checkpoint: int | None, most: int
) -> None:
    roomy = Admission(
        replace(small_spec(), context_tokens=8192),
        "model-a",
        byte_tokenizer(),
        SamplingDefaults(DEFAULTS, max_tokens=of_checkpoint),
        AdmissionLimits(ImageLimits(), default_deadline_s=600, max_deadline_s=3600),
    )
    assert (await roomy.admit(request(), Caller(), None)).job.max_tokens == most


async def test_logprobs_of_the_chosen_tokens_alone_can_be_asked_for() -> None:
    asked = request()
    asked.top_logprobs = 0
    job = (await admit(asked)).job
    assert (job.want_logprobs, job.top_logprobs) == (True, 0)


def sampling(field: str, value: float) -> Change:
    return lambda asked: setattr(asked.sampling, field, value)


def bias(biases: dict[int, float]) -> Change:
    return lambda asked: asked.sampling.logit_bias.update(biases)


def field(name: str, value: object) -> Change:
    return lambda asked: setattr(asked, name, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (sampling("temperature", 10.5), r"sampling.temperature is 10.5; 0 to 10"),
        (sampling("temperature", -0.5), r"sampling.temperature is -0.5; 0 to 10"),
        (sampling("temperature", float("nan")), r"sampling.temperature is nan"),
        (sampling("temperature", float("inf")), r"sampling.temperature is inf"),
        (sampling("top_p", 0), r"sampling.top_p is 0; above 0, up to 1"),
        (sampling("top_p", 1.5), r"sampling.top_p is 1.5; above 0, up to 1"),
        (sampling("top_p", float("nan")), r"sampling.top_p is nan"),
        (sampling("repetition_penalty", 0.05), r"repetition_penalty is 0.05; 0.1 to 10"),
        (sampling("repetition_penalty", 11), r"repetition_penalty is 11; 0.1 to 10"),
        (sampling("min_p", 1.5), r"sampling.min_p is 1.5; 0 to 1"),
        (sampling("typical_p", 0), r"sampling.typical_p is 0; above 0, up to 1"),
        (sampling("frequency_penalty", 2.5), r"frequency_penalty is 2.5; -2 to 2"),
        (sampling("presence_penalty", float("nan")), r"presence_penalty is nan; -2 to 2"),
        (bias({270: 1.0}), r"logit_bias has id 270; 0 to 269"),
        (bias({7: 101.0}), r"logit_bias\[7\] is 101; -100 to 100"),
        (bias(dict.fromkeys(range(301), 1.0)), r"logit_bias has 301 ids; at most 300"),
        (field("min_tokens", 503), r"min_tokens is 503; 0 to 502 \(max_tokens\)"),
        (field("priority", 0), r"priority is 0; 1 to 5"),
        (field("priority", 6), r"priority is 6; 1 to 5"),
        (field("cache_salt", "é" * 65), r"cache_salt has 130 bytes; at most 128"),
        (lambda asked: asked.response_format.SetInParent(), "response_format is empty"),
        (field("max_tokens", 0), r"max_tokens is 0; 1 to 502 .* 10 tokens.* length is 512"),
        (field("max_tokens", 503), r"max_tokens is 503; 1 to 502 .* 10 tokens.* length is 512"),
        (lambda asked: asked.stop.extend("abcdefghijklmnopq"), "stop has 17 strings; at most 16"),
        (lambda asked: asked.stop.extend(["a", ""]), r"stop\[1\] has 0 bytes; 1 to 256"),
        (lambda asked: asked.stop.append("é" * 129), r"stop\[0\] has 258 bytes; 1 to 256"),
        (lambda asked: asked.stop_token_ids.extend(range(65)), "65 ids; at most 64"),
        (lambda asked: asked.stop_token_ids.append(320), r"stop_token_ids\[0\] is 320; 0 to 319"),
        (field("top_logprobs", 21), r"top_logprobs is 21; 0 to 20"),
        (field("request_id", "a b"), r"request_id is 'a b' \(3 characters\); 1 to 128"),
        (field("request_id", "a" * 129), r"\(129 characters\); 1 to 128"),
        (field("request_id", "a\n"), r"request_id is 'a\\n'"),
        (field("orphan_timeout_s", 3601), r"orphan_timeout_s is 3601; 0 to 3600"),
        (field("orphan_timeout_s", -1), r"orphan_timeout_s is -1; 0 to 3600"),
        (field("orphan_timeout_s", float("nan")), r"orphan_timeout_s is nan"),
        (
            lambda asked: asked.messages.extend([request().messages[0]] * 512),
            "513 messages and 513 parts.* 512 tokens",
        ),
    ],
)
async def test_what_is_out_of_range_is_refused_with_the_range(change: Change, said: str) -> None:
    asked = request()
    change(asked)
    with pytest.raises(InvalidRequest, match=said):
        await admit(asked)


def ids_alone(*token_ids: int) -> api.GenerateRequest:
    return api.GenerateRequest(prompt_ids=token_ids)


async def test_a_prompt_of_token_ids_is_taken_as_it_is() -> None:
    asked = ids_alone(258, 260, 263, 10, 97, 264)
    said = (await admit(request("a"))).job
    job = (await admit(asked)).job
    assert list(job.prompt_ids) == list(said.prompt_ids)
    assert (job.header_id, job.max_tokens) == (said.header_id, said.max_tokens)
    assert job.content_digest != said.content_digest
    asked.truncate_prompt_tokens = 2
    assert list((await admit(asked)).job.prompt_ids) == [97, 264]


async def test_an_answer_has_a_header_only_after_the_token_that_opens_one() -> None:
    assert not (await admit(ids_alone(97))).job.HasField("header_id")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ids_alone(97, 320), r"prompt_ids\[1\] is 320; 0 to 319"),
        (ids_alone(266), r"prompt_ids\[0\] is 266, a placeholder of an image"),
        (ids_alone(1, 267), r"prompt_ids\[1\] is 267, a placeholder of an image"),
        (ids_alone(*[97] * 512), r"the prompt is too long: 512 tokens; .* length is 512"),
        (
            api.GenerateRequest(messages=request().messages, prompt_ids=[97]),
            "messages and prompt_ids are both set",
        ),
        (
            api.GenerateRequest(prompt_ids=[97], truncate_prompt_tokens=0),
            "truncate_prompt_tokens is 0; 1 to",
        ),
    ],
)
async def test_token_ids_that_are_no_prompt_are_refused(
    asked: api.GenerateRequest, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        await admit(asked)


async def test_a_prompt_must_leave_room_for_one_token() -> None:
    assert (await admit(request("a" * 506))).job.max_tokens == 1
    with pytest.raises(InvalidRequest, match=r"512 tokens; .* length is 512 tokens"):
        await admit(request("a" * 507))


async def test_a_prompt_that_is_too_long_is_counted_all_the_same() -> None:
    messages = request("a" * 507).messages
    prompt = await admission().count(api.CountTokensRequest(messages=messages))
    assert len(prompt.ids) == 512


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (lambda asked: asked, "GenerateRequest"),
        (lambda asked: asked.messages[0].parts[0], "ContentPart"),
        (lambda asked: asked.sampling, "SamplingParams"),
    ],
)
async def test_fields_of_another_release_are_refused_wherever_they_are(
    where: Callable[[api.GenerateRequest], Message], name: str
) -> None:
    asked = request()
    asked.sampling.seed = 1
    where(asked).MergeFromString(b"\xf8\x06\x01")  # field 111
    with pytest.raises(InvalidRequest, match=rf"glm4v\.v1\.{name} .* number 111 "):
        await admit(asked)


async def test_an_image_is_named_by_its_bytes() -> None:
    data = image()
    admitted = await admit(with_image(api.Image(data=data)))
    assert admitted.image == data
    assert admitted.job.image_digest == hashlib.sha256(data).hexdigest()
    assert list(admitted.job.prompt_ids[3:8]) == [10, 266, 256, 267, ord("h")]


async def test_an_image_sent_before_is_named_by_its_digest() -> None:
    digest = "0123456789abcdef" * 4
    admitted = await admit(with_image(api.Image(digest=digest)))
    assert admitted.image is None
    assert admitted.job.image_digest == digest


@pytest.mark.parametrize(
    ("image", "kind", "said"),
    [
        (api.Image(data=bytes(4001)), Overloaded, "4001 bytes, at most 4000"),
        (api.Image(data=image(31, 30)), InvalidRequest, "more than 900 pixels in all"),
        (api.Image(data=b"nonsense"), InvalidRequest, "8 bytes are no image"),
        (api.Image(data=b""), InvalidRequest, "empty"),
        (api.Image(digest="0" * 63), InvalidRequest, r"\(63 characters\); send the 64 lower-case"),
        (api.Image(digest="A" * 64), InvalidRequest, "lower-case"),
        (api.Image(digest="0" * 64 + "\n"), InvalidRequest, r"\(65 characters\)"),
    ],
)
async def test_an_image_that_cannot_be_taken_is_refused(
    image: api.Image, kind: type[Glm4vError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        await admit(with_image(image))


@pytest.mark.parametrize(
    ("time_limit_s", "expected_s"),
    [(None, 600), (5.0, 5), (0.0, 0.001), (1e9, 3600), (math.inf, 3600)],
)
async def test_the_deadline_is_the_callers_within_the_limit(
    time_limit_s: float | None, expected_s: float
) -> None:
    started = time.monotonic()
    job = (await admit(request(), time_limit_s)).job
    taken_s = time.monotonic() - started
    assert expected_s - taken_s - 0.001 <= job.timeout_ms / 1000 <= expected_s
    assert (job.accepted_ms, job.deadline_ms) == (0, 0)  # Redis tells them


async def test_a_repeated_request_has_the_same_content_digest() -> None:
    asked = with_image(api.Image(data=image()))
    first = (await admit(asked, 5)).job
    by_digest = with_image(api.Image(digest=first.image_digest))
    by_digest.orphan_timeout_s = 3
    by_digest.return_prompt_ids = True
    by_digest.priority = 1
    by_digest.cache_salt = "a"
    by_digest.sampling.SetInParent()  # and nothing in it
    second = (await admit(by_digest, 50)).job
    assert second.content_digest == first.content_digest
    assert second.sampling.seed != first.sampling.seed  # drawn, and not part of it


@pytest.mark.parametrize(
    "change",
    [
        sampling("temperature", 0.25),
        sampling("top_p", 0.5),
        sampling("top_k", 1),
        sampling("repetition_penalty", 2),
        sampling("seed", 0),
        sampling("min_p", 0.5),
        sampling("typical_p", 0.5),
        sampling("frequency_penalty", 0.5),
        sampling("presence_penalty", 0.5),
        bias({5: 0.0}),
        field("min_tokens", 1),
        lambda asked: asked.response_format.MergeFrom(api.ResponseFormat(regex="a")),
        field("max_tokens", 5),
        field("n", 2),
        field("best_of", 2),
        field("truncate_prompt_tokens", 100),
        field("prompt_logprobs", 0),
        field("ignore_eos", True),
        field("top_logprobs", 0),
        lambda asked: asked.stop.append("x"),
        lambda asked: asked.stop_token_ids.append(5),
        lambda asked: asked.messages[0].parts.add(text=""),
    ],
)
async def test_a_request_for_something_else_has_another_content_digest(change: Change) -> None:
    asked = request()
    change(asked)
    assert (await admit(asked)).job.content_digest != (await admit(request())).job.content_digest
