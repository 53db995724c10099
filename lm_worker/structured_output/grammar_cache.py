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

import anyio
import anyio.to_thread
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from glm4v.checkpoint.spec import ModelSpec
from glm4v.errors import InvalidRequest, Overloaded
from lm_worker.plan import NO_TOKEN, OutputFormat, SamplingState, after_header
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
        self, sequence_id: int, output_format: OutputFormat, output: tuple[int, ...]
    ) -> None:
        """Create a sequence's matcher; `output` is its output so far, after the header.

        Raises InvalidRequest if the format does not compile within the limits, Overloaded if this
        worker cannot compile it now.
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
                    self._matcher, output_format, output, abandon_on_cancel=True
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
        """Masks of the allowed next tokens, [tokens] each, by index; without a grammar none."""
        masks = {}
        for index, state in enumerate(states):
            if state.grammar is not None and (matcher := self._matchers.get(state.grammar)):
                if state.header_id != NO_TOKEN and not state.output_ids:
                    masks[index] = self._only(state.header_id)
                else:
                    output = after_header(state.output_ids, state.header_id)
                    matcher.advance_to(output, state.stop_ids)
                    masks[index] = matcher.allowed
        return masks

    def _only(self, token_id: int) -> torch.Tensor:
        allowed = torch.zeros(self._spec.tokens, dtype=torch.bool)
        allowed[token_id] = True
        return allowed

    def status_after(self, state: SamplingState, token_id: int) -> tuple[bool, str]:
        """Whether the output is complete after `token_id`, and why it cannot continue, if so."""
        if state.grammar is None or token_id in state.stop_ids:
            return False, ""
        matcher = self._matchers.get(state.grammar)
        if matcher is None:  # the sequence was removed
            return False, ""
        output = after_header((*state.output_ids, token_id), state.header_id)
        matcher.advance_to(output, state.stop_ids)
        return matcher.is_complete, matcher.failure

    # The methods below run in other threads, for formats that the compiler has checked.

    def _read_vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(self._model_dir, self._spec)
            return self._vocabulary

    def _matcher(self, output_format: OutputFormat, output: tuple[int, ...]) -> "Matcher":
        matcher = Matcher(self._copy(output_format, self._read_vocabulary()), self._spec)
        matcher.advance_to(output, ())
        if matcher.failure:
            raise InvalidRequest(f"response_format.{output_format.kind}: {matcher.failure}")
        if matcher.is_complete and not output:
            raise InvalidRequest(
                f"response_format.{output_format.kind} matches only the empty output; "
                "allow something else"
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


class Matcher:
    """The allowed next tokens of one sequence."""

    def __init__(self, matcher: LLMatcher, spec: ModelSpec) -> None:
        self._matcher = matcher
        self._tokens = spec.tokens
        self._end = spec.first_special_id  # stands for all stop tokens
        self._output: tuple[int, ...] | None = None
        self._stop_ids: tuple[int, ...] = ()
        self.allowed = torch.zeros(0, dtype=torch.bool)  # [tokens]
        self.is_complete = False  # nothing can follow
        self.failure = ""  # why the output cannot continue

    def advance_to(self, output: tuple[int, ...], stop_ids: tuple[int, ...]) -> None:
        """Compute what may follow `output`; `stop_ids` may, where the output can end."""
        if (output, stop_ids) == (self._output, self._stop_ids):
            return
        known = self._output or ()
        if output[: len(known)] != known:
            self._matcher.reset()
            known = ()
        self._matcher.consume_tokens(list(output[len(known) :]))
        self._output, self._stop_ids = output, stop_ids
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._tokens].astype(np.bool_)
        if self._matcher.is_error():  # the mask is meaningless then
            bits[:] = False
        self.allowed = torch.from_numpy(bits)
        can_end = bool(bits[self._end])
        own_stops = [stop for stop in stop_ids if stop < self._tokens]
        bits[[*own_stops, self._end]] = False
        can_continue = bool(bits.any())
        bits[own_stops] = can_end
        self.is_complete = can_end and not can_continue
        self.failure = "" if can_end or can_continue else self._why()

    def _why(self) -> str:
        if self._matcher.is_error():
            at = len(self._output or ())
            return f"cannot be followed at token {at}: {library_error(self._matcher)}"
        return (
            f"only stop_token_ids fit at token {len(self._output or ())}; remove them, or let the "
            "response format end there"
        )
