"""The loads of `glm4v bench drafts`."""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gateway.access.caller import Caller
from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.demo import demo_examples
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.vocabulary import read_ranks
from glm4v.client.messages import assistant_message, user_message
from glm4v.device import Device
from glm4v.images import ImageLimits
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2 as api
from lm_worker.engine.sequence import SequenceRequest
from lm_worker.plan import OutputFormat, SamplingParams
from lm_worker.translate import sequence_request
from offline.admission import open_admission
from vision_worker.decoders import Decoders
from vision_worker.encoder import Encoder

_PROMPT_TOKENS = 64
_FORM_TOKENS = 256  # enough for an answer without white space
_EXAMPLE_BATCHES = 8  # these answers are short
_FIELDS = {
    "number_of_people": {"type": "integer", "minimum": 0, "maximum": 99},
    "dominant_color": {"enum": ["red", "green", "blue", "yellow"]},
    "is_photograph": {"type": "boolean"},
    "time_of_day": {"enum": ["morning", "afternoon", "evening", "night"]},
    "description": {"type": "string", "maxLength": 30},
    "confidence_percent": {"type": "integer", "minimum": 0, "maximum": 99},
}
FORM = json.dumps(
    {
        "type": "object",
        "properties": _FIELDS,
        "required": [*_FIELDS],
        "additionalProperties": False,
    }
)


_Asked = tuple[SequenceRequest, TensorBytes | None]


@dataclass(frozen=True, slots=True)
class Load:
    """Requests without end, each with its image's embedding if it has one."""

    name: str
    requests: Iterator[_Asked]
    batches: int = 1  # in a round


def random_loads(checkpoint: Checkpoint, tokens: int) -> list[Load]:
    """Prompts of random words, for any checkpoint; text answers have `tokens` tokens."""
    spaces = _white_space(checkpoint)
    form = OutputFormat("json_schema", FORM)
    # A trained model writes hardly any white space between the parts of a JSON value; one with
    # random weights writes the 32 characters that are allowed.
    compact = SamplingParams(logit_bias=tuple((token_id, -100.0) for token_id in spaces))
    kinds = [
        ("JSON schema", compact, _FORM_TOKENS, form),
        ("JSON schema, much white space", SamplingParams(), _FORM_TOKENS, form),
        (
            "JSON schema, log-probabilities",
            replace(compact, want_logprobs=True, top_logprobs=1),
            _FORM_TOKENS,
            form,
        ),
        ("greedy text", SamplingParams(), tokens, None),
        ("sampled text", SamplingParams(temperature=1.0), tokens, None),
    ]
    return [Load(kind[0], _random_requests(checkpoint.spec, *kind)) for kind in kinds]


def _white_space(checkpoint: Checkpoint) -> list[int]:
    ranks = read_ranks(checkpoint.directory / "tokenizer.model", checkpoint.spec.first_special_id)
    return sorted(token_id for word, token_id in ranks.items() if not word.strip())


def _random_requests(
    spec: ModelSpec,
    name: str,
    sampling: SamplingParams,
    tokens: int,
    output_format: OutputFormat | None,
) -> Iterator[_Asked]:
    rng = random.Random(name)
    for number in itertools.count():
        request = SequenceRequest(
            request_id=f"{name} {number}",
            prompt_ids=tuple(rng.randrange(spec.first_special_id) for _ in range(_PROMPT_TOKENS)),
            image="",
            image_offset=-1,
            max_tokens=tokens,
            stop_ids=frozenset(),
            sampling=replace(sampling, seed=number),
            output_format=output_format,
        )
        yield request, None


async def example_loads(checkpoint: Checkpoint, device: Device) -> list[Load]:
    """Questions about the demo model's images, second turns included, as the demo model answers.

    Free text, one of all the answers as a choice, and a JSON object with such a choice.
    """
    examples = demo_examples()
    answers = sorted({answer for example in examples for _, answer in example.turns})
    schema = {
        "type": "object",
        "properties": {"answer_to_the_question": {"enum": answers}},
        "required": ["answer_to_the_question"],
        "additionalProperties": False,
    }
    formats = {
        "examples": None,
        "examples, choice": api.ResponseFormat(choice=api.ChoiceFormat(options=answers)),
        "examples, JSON schema": api.ResponseFormat(json_schema=json.dumps(schema)),
    }
    limits = ImageLimits()
    tokenizer = Tokenizer.read(checkpoint.directory, checkpoint.spec)
    admission = open_admission(checkpoint, tokenizer, limits)
    decoders = Decoders(limits, checkpoint.spec.vision.image_size, quick=1)
    encoder = Encoder(checkpoint, device, decoders)
    loads = []
    try:
        await encoder.start()
        files = [example.image.read_bytes() if example.image else None for example in examples]
        embeddings = [await encoder.encode(data) if data else None for data in files]
        for name, response_format in formats.items():
            asked: list[_Asked] = []
            for example, data, embedding in zip(examples, files, embeddings, strict=True):
                for messages in _conversations(example.turns, data):
                    message = api.GenerateRequest(
                        messages=messages,
                        sampling=api.SamplingParams(temperature=0),
                        response_format=response_format,
                        max_tokens=128,
                    )
                    job = (await admission.admit(message, Caller(), None)).job
                    request = sequence_request(job, checkpoint.spec)
                    asked.append((request, embedding))
            loads.append(Load(name, _again(name, asked), _EXAMPLE_BATCHES))
    finally:
        encoder.close()
    return loads


def _conversations(
    turns: Sequence[tuple[str, str]], image: bytes | None
) -> Iterator[list[api.Message]]:
    """Up to each turn's question."""
    messages: list[api.Message] = []
    for question, answer in turns:
        messages.append(user_message(question, None if messages else image))
        yield list(messages)
        messages.append(assistant_message(answer))


def _again(name: str, asked: Sequence[_Asked]) -> Iterator[_Asked]:
    for number, (request, embedding) in enumerate(itertools.cycle(asked)):
        yield replace(request, request_id=f"{name} {number}"), embedding
