"""Constrains output to response formats: a matcher per sequence gives the allowed next tokens.

The token that ends the header of a turn belongs to the chat template. Formatted output begins with
it, like all output the model was trained on, and the format begins after it.

A matcher's state depends only on the format and the output so far. It is kept between steps, so
that a step costs one token; after a resume the output is read again from its start.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from glm4v.checkpoint.spec import ModelSpec
from glm4v.errors import InvalidRequest, Overloaded
from lm_worker.plan import NO_TOKEN, OutputFormat, SampledToken, SamplingState, after_header
from lm_worker.structured_output.compiler import GrammarCompiler, server_command
from lm_worker.structured_output.grammar import compile_grammar, library_error, read_vocabulary

_MAX_COMPILED = 64  # formats
_THREADS = 2
_MAX_OPEN_BYTES = 2**29  # of all running requests' grammars together


class GrammarCache:
    """The most recently used grammars, and the matchers of running sequences.

    `compile_for`, `close` and `close_compiler` belong to the event loop, the rest to the device
    thread.
    """

    def __init__(
        self, model_dir: Path, spec: ModelSpec, compiler: GrammarCompiler | None = None
    ) -> None:
        self._model_dir = model_dir
        self._spec = spec
        self._compiler = compiler or GrammarCompiler(server_command(model_dir))
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[OutputFormat, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # guards the two above
        self._threads = anyio.Semaphore(_THREADS)  # FIFO
        self._matchers: dict[int, Matcher] = {}
        self._bytes: dict[int, int] = {}  # memory of running sequences' grammars, by sequence

    async def compile_for(
        self,
        sequence_id: int,
        output_format: OutputFormat,
        output: tuple[int, ...],
        stop_ids: tuple[int, ...] = (),
    ) -> None:
        """Create a sequence's matcher; `output` is its output so far, after the header.

        Raises InvalidRequest if the format does not compile within the limits, or allows nothing
        but tokens of `stop_ids`; Overloaded if this worker cannot compile it now.
        """
        size = await self._compiler.check(output_format)
        if sum(self._bytes.values()) + size > _MAX_OPEN_BYTES:
            raise Overloaded(
                f"response_format takes {size // 2**20} MiB; with those of "
                f"{len(self._bytes)} running requests it may take {_MAX_OPEN_BYTES // 2**20} MiB "
                "together; try again, or simplify it"
            )
        self._bytes[sequence_id] = size
        try:
            async with self._threads:
                self._matchers[sequence_id] = await anyio.to_thread.run_sync(
                    self._matcher, output_format, output, stop_ids, abandon_on_cancel=True
                )
        except BaseException:
            self.close(sequence_id)
            raise

    def close(self, sequence_id: int) -> None:
        """Drop a sequence's matcher, if it has one."""
        self._matchers.pop(sequence_id, None)
        self._bytes.pop(sequence_id, None)

    def close_compiler(self) -> None:
        """Stop the compiler processes. Takes a second at most."""
        self._compiler.close()

    def allowed(self, states: Sequence[SamplingState]) -> dict[int, torch.Tensor]:
        """Masks of the allowed next tokens, [tokens] each, by index.

        There is none without a grammar, and none after drafts that a grammar does not allow.
        """
        masks = {}
        refused: set[int] = set()  # grammars that do not allow a draft: nothing follows it
        for index, state in enumerate(states):
            if state.grammar is None or state.grammar in refused:
                continue
            if (matcher := self._matchers.get(state.grammar)) is not None:
                if state.header_id != NO_TOKEN and not state.output_ids:
                    masks[index] = self._only(state.header_id)
                else:
                    output = after_header(state.output_ids, state.header_id)
                    if matcher.advance_to(output, state.stop_ids):
                        masks[index] = matcher.now.allowed
                    else:
                        refused.add(state.grammar)
        return masks

    def _only(self, token_id: int) -> torch.Tensor:
        allowed = torch.zeros(self._spec.tokens, dtype=torch.bool)
        allowed[token_id] = True
        return allowed

    def follow(self, state: SamplingState, tokens: Sequence[SampledToken]) -> list[SampledToken]:
        """The tokens sampled from `state` on, up to the one that ends the output, if any does.

        Each says whether the output is complete after it, and why it cannot continue, if so. At
        most `state.most_forced` tokens that the grammar forces are added.
        """
        followed: list[SampledToken] = []
        matcher = self._matchers.get(state.grammar) if state.grammar is not None else None
        output = state.output_ids
        for token in tokens:
            followed.append(token)
            is_header = not output and token.token_id == state.header_id
            if matcher is None or token.token_id == NO_TOKEN:
                return followed  # without a matcher the sequence was removed
            if token.token_id in state.stop_ids and not is_header:
                return followed
            output = (*output, token.token_id)
            matcher.advance_to(after_header(output, state.header_id), state.stop_ids)
            followed[-1] = matcher.now.told(token)
            if matcher.now.ends:
                return followed
        if matcher is not None:
            followed += matcher.force(state.most_forced)
            matcher.forget_steps()
        return followed

    # The methods below run in other threads, for formats that the compiler has checked.

    def _read_vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(self._model_dir, self._spec)
            return self._vocabulary

    def _matcher(
        self, output_format: OutputFormat, output: tuple[int, ...], stop_ids: tuple[int, ...]
    ) -> "Matcher":
        matcher = Matcher(self._copy(output_format, self._read_vocabulary()), self._spec)
        matcher.advance_to(output, stop_ids)
        if matcher.now.failure:
            raise InvalidRequest(f"response_format.{output_format.kind}: {matcher.now.failure}")
        if matcher.now.is_complete and not output:
            raise InvalidRequest(
                f"response_format.{output_format.kind} matches only the empty output, or one that "
                "begins with a token of stop_token_ids; allow something else"
            )
        return matcher

    def _copy(self, output_format: OutputFormat, vocabulary: LLTokenizer) -> LLMatcher:
        """A matcher at the start of the output."""
        with self._lock:
            compiled = self._compiled.get(output_format)
            if compiled is not None:
                self._compiled.move_to_end(output_format)
                return compiled.deep_copy()
        compiled = compile_grammar(output_format, vocabulary)
        with self._lock:
            self._compiled[output_format] = compiled
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
            return compiled.deep_copy()


class _Step(NamedTuple):
    """What may follow an output."""

    allowed: torch.Tensor  # [tokens]
    is_complete: bool  # nothing can follow
    failure: str  # why the output cannot continue
    only: int = NO_TOKEN  # the one allowed token, if it is one

    def can_be_followed_by(self, token_id: int, stop_ids: tuple[int, ...]) -> bool:
        """Whether a token is allowed, and does not end the output."""
        return token_id not in stop_ids and bool(self.allowed[token_id])

    @property
    def ends(self) -> bool:
        """Whether the output is complete, or cannot continue."""
        return self.is_complete or bool(self.failure)

    def told(self, token: SampledToken) -> SampledToken:
        """The output's last token, saying so."""
        return token._replace(is_complete=self.is_complete, failure=self.failure)


class Matcher:
    """The allowed next tokens of one sequence."""

    def __init__(self, matcher: LLMatcher, spec: ModelSpec) -> None:
        self._matcher = matcher
        self._tokens = spec.tokens
        self._end = spec.first_special_id  # stands for all stop tokens
        self._output: tuple[int, ...] = ()
        self._stop_ids: tuple[int, ...] = ()
        self._steps: dict[int, _Step] = {}  # by length of the output, for those computed lately
        self.now = _Step(torch.zeros(0, dtype=torch.bool), False, "")

    def advance_to(self, output: tuple[int, ...], stop_ids: tuple[int, ...]) -> bool:
        """Compute what may follow `output`; `stop_ids` may, where the output can end.

        Returns False, and computes nothing, if it is known that its last token is not allowed, or
        ends the output.
        """
        if stop_ids != self._stop_ids:
            self._steps.clear()
            self._stop_ids = stop_ids
        before = self._steps.get(len(output) - 1)
        is_next = self._output[: len(output) - 1] == output[:-1]
        if before is not None and is_next and not before.can_be_followed_by(output[-1], stop_ids):
            return False
        self._go_to(output)
        if len(output) not in self._steps:
            self._steps[len(output)] = self._step()
        self.now = self._steps[len(output)]
        return True

    def _go_to(self, output: tuple[int, ...]) -> None:
        known = self._output
        common = len(known)
        if output[:common] != known:
            common = next(at for at in range(common) if output[at : at + 1] != known[at : at + 1])
        for length in [length for length in self._steps if length > common]:
            del self._steps[length]
        back = len(known) - common
        if back and (self._matcher.is_error() or not self._matcher.rollback(back)):
            self._matcher.reset()
            common = 0
        self._matcher.consume_tokens(list(output[common:]))
        self._output = output

    def forget_steps(self) -> None:
        """Keep the masks of this output only."""
        self._steps = {len(self._output): self.now}

    def force(self, most: int) -> list[SampledToken]:
        """At most `most` tokens that follow because no other is allowed; advances to them."""
        forced: list[SampledToken] = []
        while len(forced) < most and not self.now.ends and self.now.only != NO_TOKEN:
            token = SampledToken(self.now.only, is_forced=True)
            self.advance_to((*self._output, token.token_id), self._stop_ids)
            forced.append(self.now.told(token))
        return forced

    def _step(self) -> _Step:
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._tokens].astype(np.bool_)
        if self._matcher.is_error():  # the mask is meaningless then
            bits[:] = False
        can_end = bool(bits[self._end])
        own_stops = [stop for stop in self._stop_ids if stop < self._tokens]
        bits[[*own_stops, self._end]] = False
        num_allowed = np.count_nonzero(bits)
        can_continue = bool(num_allowed)
        bits[own_stops] = can_end
        failure = "" if can_end or can_continue else self._why()
        only = int(bits.argmax()) if num_allowed == 1 and not can_end else NO_TOKEN
        return _Step(torch.from_numpy(bits), can_end and not can_continue, failure, only)

    def _why(self) -> str:
        if self._matcher.is_error():
            at = len(self._output)
            return f"cannot be followed at token {at}: {library_error(self._matcher)}"
        return (
            f"only stop_token_ids fit at token {len(self._output)}; remove them, or let the "
            "response format end there"
        )
