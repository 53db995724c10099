"""Keeps answers in the form that was asked for: a matcher for each says which tokens may follow.

The token that ends the header of a turn is the template's: an answer of a form begins with it, as
every answer does that the model learned from, and the form begins behind it.

A matcher is a function of the form and of the answer's tokens alone. It remembers where it stands
so that a step costs one token; another answer, after a resume say, is read again from its start.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from glm4v.checkpoint.spec import ModelSpec
from glm4v.errors import InvalidRequest, Overloaded
from lm_worker.plan import NO_TOKEN, OutputFormat, SamplingState, after_header
from lm_worker.structured_output.compiler import GrammarCompiler, server_command
from lm_worker.structured_output.forms import compile_form, library_error, read_vocabulary

_COMPILED = 64  # forms that are kept
_THREADS = 2
_OPEN_BYTES = 2**29  # what the forms of open answers may take together


class GrammarCache:
    """Compiled forms, the latest ones, and the matchers of the answers that are being written.

    `open`, `close` and `end` belong to the event loop, the rest to the device thread.
    """

    def __init__(
        self, model_dir: Path, spec: ModelSpec, compiler: GrammarCompiler | None = None
    ) -> None:
        self._model_dir = model_dir
        self._spec = spec
        self._compiler = compiler or GrammarCompiler(server_command(model_dir))
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[OutputFormat, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # of the two above
        self._threads = anyio.Semaphore(_THREADS)  # first come, first served
        self._matchers: dict[int, Matcher] = {}
        self._bytes: dict[int, int] = {}  # what the forms of open answers took, by sequence

    async def compile_for(self, number: int, form: OutputFormat, answer: tuple[int, ...]) -> None:
        """Have a matcher for sequence `number`; `answer` is what it has already, behind its header.

        Raises InvalidRequest for a form that cannot be compiled, or not within the bounds;
        Overloaded when this worker cannot compile it now.
        """
        size = await self._compiler.prove(form)
        if sum(self._bytes.values()) + size > _OPEN_BYTES:
            raise Overloaded(
                f"response_format takes {size // 2**20} MiB beside the forms of "
                f"{len(self._bytes)} open requests, which may take {_OPEN_BYTES // 2**20} MiB "
                "together; ask again, or simplify it"
            )
        self._bytes[number] = size
        try:
            async with self._threads:
                self._matchers[number] = await anyio.to_thread.run_sync(
                    self._matcher, form, answer, abandon_on_cancel=True
                )
        except BaseException:
            self.close(number)
            raise

    def close(self, number: int) -> None:
        """Forget a sequence's matcher, if it has one."""
        self._matchers.pop(number, None)
        self._bytes.pop(number, None)

    def close_compiler(self) -> None:
        """End the processes that compile. Takes a second at most."""
        self._compiler.end()

    def allowed(self, specs: Sequence[SamplingState]) -> dict[int, torch.Tensor]:
        """Which tokens may follow, [tokens] each, by place in `specs`; those without are free."""
        found = {}
        for place, spec in enumerate(specs):
            if spec.grammar is not None and (matcher := self._matchers.get(spec.grammar)):
                if spec.header_id != NO_TOKEN and not spec.output_ids:
                    found[place] = self._only(spec.header_id)
                else:
                    matcher.advance_to(after_header(spec.output_ids, spec.header_id), spec.stop_ids)
                    found[place] = matcher.allowed
        return found

    def _only(self, token_id: int) -> torch.Tensor:
        allowed = torch.zeros(self._spec.tokens, dtype=torch.bool)
        allowed[token_id] = True
        return allowed

    def status_after(self, spec: SamplingState, token_id: int) -> tuple[bool, str]:
        """Whether nothing can follow `token_id`, and why the answer cannot go on, if it cannot."""
        if spec.grammar is None or token_id in spec.stop_ids:
            return False, ""
        matcher = self._matchers.get(spec.grammar)
        if matcher is None:  # the sequence has left
            return False, ""
        answer = after_header((*spec.output_ids, token_id), spec.header_id)
        matcher.advance_to(answer, spec.stop_ids)
        return matcher.is_complete, matcher.failure

    # What follows runs in threads of its own. They compile what is proven, and are never given up.

    def _read_vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(self._model_dir, self._spec)
            return self._vocabulary

    def _matcher(self, form: OutputFormat, answer: tuple[int, ...]) -> "Matcher":
        matcher = Matcher(self._copy(form, self._read_vocabulary()), self._spec)
        matcher.advance_to(answer, ())
        if matcher.failure:
            raise InvalidRequest(f"response_format.{form.kind}: {matcher.failure}")
        if matcher.is_complete and not answer:
            raise InvalidRequest(
                f"response_format.{form.kind} fits the empty answer only; allow something else"
            )
        return matcher

    def _copy(self, form: OutputFormat, vocabulary: LLTokenizer) -> LLMatcher:
        """A matcher that stands at the start of an answer."""
        with self._lock:
            compiled = self._compiled.get(form)
            if compiled is not None:
                self._compiled.move_to_end(form)
                return compiled.deep_copy()
        compiled = compile_form(form, vocabulary)
        with self._lock:
            self._compiled[form] = compiled
            if len(self._compiled) > _COMPILED:
                self._compiled.popitem(last=False)
            return compiled.deep_copy()


class Matcher:
    """Which tokens may follow in one answer."""

    def __init__(self, matcher: LLMatcher, spec: ModelSpec) -> None:
        self._matcher = matcher
        self._tokens = spec.tokens
        self._end = spec.first_special_id  # stands for all stop tokens
        self._answer: tuple[int, ...] | None = None
        self._stops: tuple[int, ...] = ()
        self.allowed = torch.zeros(0, dtype=torch.bool)  # [tokens]
        self.is_complete = False  # and nothing can follow
        self.failure = ""  # why the answer cannot go on

    def advance_to(self, answer: tuple[int, ...], stops: tuple[int, ...]) -> None:
        """Say what may follow `answer`; `stops` only where it can end."""
        if (answer, stops) == (self._answer, self._stops):
            return
        known = self._answer or ()
        if answer[: len(known)] != known:
            self._matcher.reset()
            known = ()
        self._matcher.consume_tokens(list(answer[len(known) :]))
        self._answer, self._stops = answer, stops
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._tokens].astype(np.bool_)
        if self._matcher.is_error():  # what it allows then means nothing
            bits[:] = False
        self.allowed = torch.from_numpy(bits)
        may_end = bool(bits[self._end])
        places = [stop for stop in (*stops, self._end) if stop < self._tokens]
        bits[places] = False
        goes_on = bool(bits.any())
        bits[places[:-1]] = may_end
        self.is_complete = may_end and not goes_on
        self.failure = "" if may_end or goes_on else self._why()

    def _why(self) -> str:
        if self._matcher.is_error():
            at = len(self._answer or ())
            return f"cannot be followed at token {at}: {library_error(self._matcher)}"
        return (
            f"nothing fits at token {len(self._answer or ())} but stop_token_ids; take them away, "
            "or let the response format end there"
        )
