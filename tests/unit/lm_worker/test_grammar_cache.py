"""Output matches its format, also after a resume; hostile formats do no harm."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.checkpoint.spec import ModelSpec, read_spec
from glm4v.checkpoint.tiny import write_tiny
from glm4v.checkpoint.vocabulary import read_ranks
from glm4v.device import DeviceOptions, open_device
from glm4v.errors import InvalidRequest, Overloaded
from lm_worker.engine.sequence import SequenceRequest, SequenceState
from lm_worker.plan import NO_TOKEN, OutputFormat, SampledToken, SamplingParams, SamplingState
from lm_worker.sampling.sampler import sample
from lm_worker.structured_output import grammar_cache
from lm_worker.structured_output.compiler import GrammarCompiler, server_command
from lm_worker.structured_output.grammar_cache import GrammarCache

CPU = open_device(DeviceOptions("cpu", "float32"))
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CHOICES = ["yes", "yes, but", "no", '"quoted"\n', "图片"]
FORMS = [
    OutputFormat("json_schema", json.dumps(PERSON)),
    OutputFormat("regex", r"[A-Z][a-z]{2,8}( [0-9]{1,3})?"),
    OutputFormat("choice", json.dumps(CHOICES)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokens are the 256 bytes."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return read_spec(folder)


@pytest.fixture(scope="module")
def compiler(folder: Path) -> Iterator[GrammarCompiler]:
    """One server for all tests: it takes a second to start."""
    compiler = GrammarCompiler(server_command(folder))
    yield compiler
    compiler.close()


@pytest.fixture
def grammars(folder: Path, spec: ModelSpec, compiler: GrammarCompiler) -> GrammarCache:
    return GrammarCache(folder, spec, compiler)


def open_(
    grammars: GrammarCache,
    form: OutputFormat,
    answer: tuple[int, ...] = (),
    stop_ids: tuple[int, ...] = (),
) -> None:
    asyncio.run(grammars.compile_for(1, form, answer, stop_ids))


@dataclass
class Written:
    """An answer that a random model wrote."""

    tokens: tuple[int, ...] = ()
    is_complete: bool = False
    failure: str = ""
    allowed: list[list[int]] = field(default_factory=list)

    def text(self, spec: ModelSpec) -> str:
        return bytes(token for token in self.tokens if token not in spec.eos_ids).decode()


def write(
    grammars: GrammarCache,
    spec: ModelSpec,
    seed: int,
    *,
    most: int = 200,
    answer: tuple[int, ...] = (),
    stop_ids: tuple[int, ...] | None = None,
    most_forced: int = 0,
    **params: Any,
) -> Written:
    """Go on from `answer` until it is over; logits depend on seed and place alone."""
    stop_ids = spec.eos_ids if stop_ids is None else stop_ids
    written = Written(answer)
    while (index := len(written.tokens)) < most:
        logits = torch.from_numpy(np.random.default_rng((seed, index)).normal(size=spec.vocab_size))
        logits[spec.tokens :] += 20
        logits[list(spec.eos_ids)] += 3
        wish = SamplingState(
            SamplingParams(seed=seed, **params),
            index,
            output_ids=written.tokens,
            grammar=1,
            stop_ids=stop_ids,
            most_forced=most_forced,
        )
        allowed = grammars.allowed([wish])
        written.allowed.append(allowed[0].nonzero().flatten().tolist())
        sampled = sample(CPU, logits[None].float() * 2, [wish], spec.tokens, allowed)
        token = sampled[0].token_id
        assert token != NO_TOKEN
        followed = grammars.follow(wish, sampled)
        assert [each.is_forced for each in followed] == [False] + [True] * (len(followed) - 1)
        assert len(followed) <= 1 + most_forced
        written.tokens += tuple(each.token_id for each in followed)
        written.is_complete, written.failure = followed[-1].is_complete, followed[-1].failure
        if token in stop_ids or written.is_complete or written.failure:
            break
    return written


def fits(form: OutputFormat, text: str) -> bool:
    if form.kind == "regex":
        return re.fullmatch(form.text, text) is not None
    if form.kind == "choice":
        return text in CHOICES
    person = json.loads(text)
    return (
        list(person) == ["name", "age", "tags"]
        and len(person["name"]) <= 12
        and 0 <= person["age"] <= 150
        and set(person["tags"]) <= {"a", "b"}
        and len(person["tags"]) <= 3
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_output_matches_the_format(
    grammars: GrammarCache, spec: ModelSpec, form: OutputFormat, temperature: float
) -> None:
    texts = set()
    for seed in range(20):
        open_(grammars, form)
        written = write(grammars, spec, seed, most=2000, temperature=temperature)
        assert written.is_complete or written.tokens[-1] in spec.eos_ids
        texts.add(written.text(spec))
        assert fits(form, written.text(spec)), written.text(spec)
    assert len(texts) > 2


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_output_is_the_same_after_a_resume_at_any_token(
    folder: Path, spec: ModelSpec, compiler: GrammarCompiler, form: OutputFormat
) -> None:
    grammars = GrammarCache(folder, spec, compiler)
    open_(grammars, form)
    whole = write(grammars, spec, 5, temperature=1.0)
    assert len(whole.tokens) > 1
    for known in range(len(whole.tokens)):
        other = GrammarCache(folder, spec, compiler)
        open_(other, form, whole.tokens[:known])
        end = known + 8
        resumed = write(other, spec, 5, most=end, answer=whole.tokens[:known], temperature=1.0)
        assert resumed.tokens == whole.tokens[:end]
        assert resumed.is_complete == (whole.is_complete and end >= len(whole.tokens))
        assert resumed.allowed == whole.allowed[known:end]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_forced_tokens_are_those_that_would_have_been_sampled(
    grammars: GrammarCache, spec: ModelSpec, form: OutputFormat
) -> None:
    sampled = 0
    for seed in range(10):
        open_(grammars, form)
        each = write(grammars, spec, seed, most=2000, temperature=1.0)
        open_(grammars, form)
        fewer = write(grammars, spec, seed, most=2000, temperature=1.0, most_forced=5)
        assert fewer.tokens == each.tokens
        assert (fewer.is_complete, fewer.failure) == (each.is_complete, each.failure)
        sampled += len(each.allowed) - len(fewer.allowed)
    assert (sampled > 0) == (form.kind != "regex")


def test_a_forced_text_is_spelled_as_the_tokenizer_does() -> None:
    """With the demo model's words: not a letter at a time, as its mask would allow."""
    spec = read_spec(DEMO_MODEL)
    compiler = GrammarCompiler(server_command(DEMO_MODEL))
    grammars = GrammarCache(DEMO_MODEL, spec, compiler)
    ranks = read_ranks(DEMO_MODEL / "tokenizer.model", spec.first_special_id)
    tokenizer = Tokenizer(ranks, spec)
    try:
        for text in ("number_of_people", "It's 12345 o'clock:  图片里有什么？\n", "    x"):
            open_(grammars, OutputFormat("choice", json.dumps([text])))
            state = SamplingState(
                SamplingParams(), 0, grammar=1, stop_ids=spec.eos_ids, most_forced=99
            )
            expected = tokenizer.encode(text)
            assert grammars.allowed([state])[0].nonzero().flatten().tolist() == expected[:1]
            followed = grammars.follow(state, [SampledToken(expected[0])])
            assert [token.token_id for token in followed] == expected
            assert followed[-1].is_complete
    finally:
        compiler.close()


def test_no_token_is_forced_where_the_answer_can_end(
    grammars: GrammarCache, spec: ModelSpec
) -> None:
    open_(grammars, OutputFormat("regex", "ab(cd)?"))
    state = SamplingState(SamplingParams(), 0, grammar=1, stop_ids=spec.eos_ids, most_forced=9)
    followed = grammars.follow(state, [SampledToken(ord("a"))])
    assert [token.token_id for token in followed] == [ord("a"), ord("b")]


def test_a_matcher_follows_any_output(grammars: GrammarCache, spec: ModelSpec) -> None:
    open_(grammars, OutputFormat("regex", "a+b|c"))

    def allowed(answer: bytes) -> bytes:
        wish = SamplingState(SamplingParams(), len(answer), output_ids=tuple(answer), grammar=1)
        return bytes(grammars.allowed([wish])[0].nonzero().flatten().tolist())

    assert [allowed(answer) for answer in (b"", b"aa", b"a", b"", b"aaa")] == [
        b"ac",
        b"ab",
        b"ab",
        b"ac",
        b"ab",
    ]


@pytest.mark.parametrize("pattern", ["a+b|c", "\n(a+b|c)"])
def test_a_format_begins_after_the_header_token(
    grammars: GrammarCache, spec: ModelSpec, pattern: str
) -> None:
    open_(grammars, OutputFormat("regex", pattern))
    begins = b"\n" if pattern[0] == "\n" else b""

    def spec_of(answer: bytes) -> SamplingState:
        return SamplingState(
            SamplingParams(), len(answer), output_ids=tuple(answer), grammar=1, header_id=10
        )

    def allowed(answer: bytes) -> bytes:
        return bytes(grammars.allowed([spec_of(answer)])[0].nonzero().flatten().tolist())

    assert allowed(b"") == b"\n"
    assert not grammars.follow(spec_of(b""), [SampledToken(10)])[0].is_complete
    assert allowed(b"\n" + begins) == b"ac"
    assert allowed(b"\n" + begins + b"a") == b"ab"
    [last] = grammars.follow(spec_of(b"\n" + begins), [SampledToken(ord("c"))])
    assert (last.is_complete, last.failure) == (True, "")
    # One that another worker began without it goes on.
    if not begins:
        assert allowed(b"aa") == b"ab"


def test_stop_tokens_are_allowed_only_where_the_output_can_end(
    grammars: GrammarCache, spec: ModelSpec
) -> None:
    open_(grammars, OutputFormat("regex", "ab*"))
    stops = (*spec.eos_ids, ord("c"), spec.vocab_size - 1)

    def allowed(answer: bytes) -> list[int]:
        wish = SamplingState(
            SamplingParams(), 0, output_ids=tuple(answer), grammar=1, stop_ids=stops
        )
        found: list[int] = grammars.allowed([wish])[0].nonzero().flatten().tolist()
        return found

    assert allowed(b"") == [ord("a")]
    assert allowed(b"a") == sorted([ord("b"), ord("c"), *spec.eos_ids])


def test_output_completes_without_a_stop_token_where_nothing_can_follow(
    grammars: GrammarCache, spec: ModelSpec
) -> None:
    open_(grammars, OutputFormat("regex", "abc"))
    written = write(grammars, spec, 1, stop_ids=())
    assert (bytes(written.tokens), written.is_complete) == (b"abc", True)


def test_special_and_padding_ids_are_never_sampled(grammars: GrammarCache, spec: ModelSpec) -> None:
    for temperature in (0.0, 2.0):
        for seed in range(10):
            open_(grammars, OutputFormat("regex", r"[\s\S]{30}"))
            tokens = write(grammars, spec, seed, stop_ids=(), temperature=temperature).tokens
            assert max(tokens) < 256


def test_a_request_fails_with_the_reason_where_only_a_stop_token_fits(
    grammars: GrammarCache, spec: ModelSpec
) -> None:
    open_(grammars, OutputFormat("regex", "abc"))
    written = write(grammars, spec, 1, stop_ids=(ord("b"),))
    assert bytes(written.tokens) == b"a"
    assert "only stop_token_ids fit at token 1" in written.failure


@pytest.mark.parametrize("header", [NO_TOKEN, 10])
@pytest.mark.parametrize("pattern", ["\n+", "\n?", "\n?a?", "a|\n", "\na", "a?b\n"])
def test_with_any_stop_tokens_a_token_fits_or_the_reason_is_told(
    grammars: GrammarCache, spec: ModelSpec, pattern: str, header: int
) -> None:
    """The header's token may be a stop token of what follows it."""
    form = OutputFormat("regex", pattern)
    refusals: list[str] = []
    for stops in [(), (10,), (97,), (10, 97), (10, 97, 98)]:
        stop_ids = frozenset((*stops, *spec.eos_ids))
        for min_tokens in (0, 1, 2, 5):
            request = SequenceRequest(
                "r",
                (1,),
                "",
                -1,
                max_tokens=9,
                stop_ids=stop_ids,
                min_tokens=min_tokens,
                output_format=form,
                header_id=header,
            )
            try:
                open_(grammars, form, (), tuple(stop_ids))
            except InvalidRequest as error:
                refusals.append(str(error))
                continue
            text, failure = answer_to(grammars, spec, request)
            matches = re.match(pattern, text.removeprefix("\n" if header == 10 else ""))
            assert matches or "only stop_token_ids" in failure
    for line in refusals:
        assert "only the empty output" in line or "only stop_token_ids fit at token 0" in line


def answer_to(grammars: GrammarCache, spec: ModelSpec, request: SequenceRequest) -> tuple[str, str]:
    """The answer of sequence 1 up to its end, and why it failed if it did."""
    sequence = SequenceState(1, request, 6, ())
    failure = ""
    while not sequence.is_over():
        state = sequence.sampling_state()
        logits = torch.zeros(1, spec.vocab_size)
        [token] = sample(CPU, logits, [state], spec.tokens, grammars.allowed([state]))
        assert token.token_id != NO_TOKEN, (request, sequence.token_ids)
        [token] = grammars.follow(state, [token])
        sequence.add_token(token.token_id)
        failure = token.failure
        if token.is_complete or failure:
            break
    return bytes(token for token in sequence.token_ids if token < 256).decode(), failure


def test_what_follows_the_header_is_forced_where_the_header_is_a_stop_token(
    grammars: GrammarCache, spec: ModelSpec
) -> None:
    open_(grammars, OutputFormat("regex", "abc"), (), (10,))
    state = SamplingState(
        SamplingParams(), 0, grammar=1, stop_ids=(10,), header_id=10, most_forced=9
    )
    followed = grammars.follow(state, [SampledToken(10)])
    assert bytes(token.token_id for token in followed) == b"\nabc"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (OutputFormat("regex", "a("), "regex: .*unclosed group"),
        (OutputFormat("regex", "(?=a)b"), "regex: .*look-around"),
        (OutputFormat("regex", ""), "regex matches only the empty output"),
        (OutputFormat("regex", r"[^\s\S]"), "regex: cannot be followed at token 0"),
        (OutputFormat("regex", "(" * 4000 + "a" + ")" * 4000), "regex: .*nest"),
        (OutputFormat("json_schema", '{"type": "objekt"}'), "json_schema: .*objekt"),
        (OutputFormat("json_schema", '{"$ref": "#"}'), "it leads back to itself"),
        (
            OutputFormat("json_schema", '{"anyOf": [{"$ref": "#"}]}'),
            "cannot be followed at token 0",
        ),
        (OutputFormat("json_schema", '{"uniqueItems": true, "type": "array"}'), "uniqueItems"),
        (  # Python 3.11 reads JSON less deep than 3.13: the bound that is met first differs
            OutputFormat("json_schema", '{"items":' * 6000 + "{}" + "}" * 6000),
            r"nested (too deeply|more than 100 deep)",
        ),
        (
            OutputFormat("json_schema", '{"type": "array", "items": false, "minItems": 1}'),
            "unsatis",
        ),
    ],
)
def test_an_invalid_format_is_refused_in_one_line(
    grammars: GrammarCache, form: OutputFormat, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        open_(grammars, form)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_format_that_grows_too_complex_fails_its_request_only(
    grammars: GrammarCache, spec: ModelSpec
) -> None:
    open_(grammars, OutputFormat("regex", "(a{1,1000}){1,1000}"))
    written = write(grammars, spec, 1, most=3000, stop_ids=())
    assert "cannot be followed at token" in written.failure
    assert "\n" not in written.failure
    open_(grammars, FORMS[1])
    assert fits(FORMS[1], write(grammars, spec, 1).text(spec))


def test_a_format_is_compiled_once_and_matchers_are_independent(
    grammars: GrammarCache,
) -> None:
    form = OutputFormat("regex", "abc")

    async def both() -> None:
        await asyncio.gather(
            grammars.compile_for(1, form, ()), grammars.compile_for(2, form, tuple(b"ab"))
        )

    asyncio.run(both())
    wishes = [
        SamplingState(SamplingParams(), 0, grammar=1),
        SamplingState(SamplingParams(), 0),
        SamplingState(SamplingParams(), 2, output_ids=tuple(b"ab"), grammar=2),
    ]
    found = {
        place: row.nonzero().flatten().tolist() for place, row in grammars.allowed(wishes).items()
    }
    assert found == {0: [ord("a")], 2: [ord("c")]}
    grammars.close(1)
    grammars.close(1)
    assert list(grammars.allowed(wishes)) == [2]


class Heavy(GrammarCompiler):
    """Proves everything, at a price."""

    def __init__(self, size: int) -> None:
        super().__init__([])
        self._size = size

    async def check(self, output_format: OutputFormat) -> int:
        return self._size


def test_grammars_of_running_requests_share_a_memory_limit(folder: Path, spec: ModelSpec) -> None:
    grammars = GrammarCache(folder, spec, Heavy(100 * 2**20))

    async def fill() -> None:
        for number in range(5):
            await grammars.compile_for(number, OutputFormat("regex", "abc"), ())
        with pytest.raises(Overloaded, match=r"100 MiB; with those of 5 running .* 512 MiB"):
            await grammars.compile_for(5, OutputFormat("regex", "abc"), ())
        grammars.close(4)
        with pytest.raises(InvalidRequest):
            await grammars.compile_for(4, OutputFormat("regex", "a("), ())
        await grammars.compile_for(4, OutputFormat("regex", "abc"), ())  # what failed holds nothing

    asyncio.run(fill())


def test_an_unchecked_format_is_not_compiled_in_this_process(
    folder: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, compiler: GrammarCompiler
) -> None:
    compiled = []
    monkeypatch.setattr(grammar_cache, "compile_grammar", lambda form, _: compiled.append(form))
    grammars = GrammarCache(folder, spec, compiler)
    with pytest.raises(InvalidRequest, match="unclosed group"):
        open_(grammars, OutputFormat("regex", "a("))
    assert compiled == []
