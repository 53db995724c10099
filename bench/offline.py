"""Measures batches of one image and one question in a single process: `glm4v bench offline`."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from bench.machine import SideProcess, read_rates
from glm4v.checkpoint.checkpoint import Checkpoint
from lm_worker.model.layers import Shard
from lm_worker.model.model import kv_bytes_per_token
from offline.batch import BatchResult, BatchRunner, BatchSize, Question, Timings
from offline.rank_group import Hardware, RankGroup

_TEMPLATE_TOKENS = 16  # at most, of a prompt beside its question and image
_WARM_UP_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Figures:
    """The measurements of one batch size."""

    batch: int
    text_tokens: int  # of the question alone
    prompt_tokens: int  # with the template and the image
    output_tokens: int  # of each answer
    timings: Timings
    roofline_share: float | None  # of decode steps; None where the bandwidth is unknown

    @property
    def total_s(self) -> float:
        """From the first image file to the last token."""
        return self.timings.total

    @property
    def total_ms(self) -> float:
        """The same in milliseconds."""
        return 1000 * self.timings.total

    @property
    def encode_ms(self) -> float:
        """Of all images."""
        return 1000 * self.timings.encode

    @property
    def prefill_ms(self) -> float:
        """From encoded images to the first token of each answer."""
        return 1000 * sum(self.timings.prefill)

    @property
    def decode_ms(self) -> float:
        """Of one further token, on average."""
        return 1000 * sum(self.timings.decode) / (self.output_tokens - 1)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all answers over the whole time."""
        return self.batch * self.output_tokens / self.timings.total

    @property
    def decode_p50_ms(self) -> float:
        """Half of the decode steps took no longer."""
        return self._percentile(50)

    @property
    def decode_p90_ms(self) -> float:
        """90 % of the decode steps took no longer."""
        return self._percentile(90)

    @property
    def decode_p99_ms(self) -> float:
        """99 % of the decode steps took no longer."""
        return self._percentile(99)

    def _percentile(self, share: int) -> float:
        return 1000 * float(np.percentile(self.timings.decode, share))


class OfflineBench:
    """One batch size after the other; nothing ends an answer before `max_tokens`.

    Attributes:
        device: What the language model computes on.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        hardware: Hardware,
        question: Question,
        batches: Sequence[int],
        max_tokens: int,
        on_tokens: Callable[[int], None],
    ) -> None:
        """`on_tokens` is told how many tokens each step has generated."""
        spec = checkpoint.spec
        words = len(question.text.encode())  # no fewer than its tokens
        prompt_tokens = spec.vision.num_image_tokens + words + _TEMPLATE_TOKENS
        size = BatchSize(max(batches), prompt_tokens, max_tokens)
        group = RankGroup(checkpoint, hardware)
        self.device = group.device
        self._runner = BatchRunner(checkpoint, group, size, on_tokens)
        self._question = question
        self._batches = batches
        self._max_tokens = max_tokens
        self._weight_bytes = group.device.bytes_of_a_step(checkpoint)
        self._token_bytes = kv_bytes_per_token(spec, Shard(0, 1), group.device)
        in_host_memory = group.device.torch_device == torch.device("cpu")
        self._has_roofline = in_host_memory and hardware.tensor_parallel == 1

    async def measure(self, on_figures: Callable[[Figures], None]) -> None:
        """Measure, after a warm-up. Raises the errors of checkpoint, device and image."""
        with ExitStack() as stack:
            helper = None
            if self._has_roofline:
                helper = stack.enter_context(SideProcess(torch.get_num_threads()))
            async with self._runner.running():
                await self._answer(1, _WARM_UP_TOKENS)
                for batch in self._batches:
                    rates = helper.call(read_rates) if helper else []
                    result = await self._answer(batch, self._max_tokens)
                    rates += helper.call(read_rates) if helper else []
                    on_figures(self._figures(batch, result, rates))

    async def _answer(self, batch: int, max_tokens: int) -> BatchResult:
        questions = [self._question] * batch
        return await self._runner.answer(questions, max_tokens=max_tokens, ignore_eos=True)

    def _figures(self, batch: int, result: BatchResult, read_rates: Sequence[float]) -> Figures:
        tokens = result.answers[0].tokens
        share = None
        if read_rates:
            cached = batch * (result.prompt_tokens + tokens // 2)
            step_bytes = self._weight_bytes + cached * self._token_bytes
            ideal_s = step_bytes / statistics.median(read_rates)
            share = ideal_s / statistics.median(result.timings.decode)
        return Figures(
            batch, result.text_tokens, result.prompt_tokens, tokens, result.timings, share
        )
