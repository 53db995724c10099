"""Executes step plans on one rank: embeds tokens, runs the model, samples."""

from collections.abc import Iterator, Sequence

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.loading import Loading
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.weights import Weights
from glm4v.device import Attention, Device
from glm4v.device.collectives import Collective
from glm4v.device.inputs import DeviceInputs
from glm4v.tensor_bytes import TensorBytes
from lm_worker.model.inputs import attention_segments, image_spans, step_inputs
from lm_worker.model.layers import Shard
from lm_worker.model.model import LanguageModel
from lm_worker.plan import (
    Chunk,
    PromptLogprob,
    SampledToken,
    StepPlan,
    StepResult,
)
from lm_worker.sampling.sampler import sample, token_logprobs
from lm_worker.step_timer import StepTimer
from lm_worker.structured_output.grammar_cache import GrammarCache

_LOGPROB_TOKENS = 64  # prompt tokens scored at a time: 39 MB of float32 logits
NO_MEMORY = (
    "the language worker is out of memory; free some, or lower GLM4V_KV_CACHE_BYTES or "
    "GLM4V_MAX_BATCHED_TOKENS"
)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Runner:
    """One rank's model, KV cache and image embeddings. Not thread-safe."""

    def __init__(
        self,
        model: LanguageModel,
        device: Device,
        attention: Attention,
        spec: ModelSpec,
        grammars: GrammarCache | None = None,
    ) -> None:
        self._model = model
        self._device = device
        self._attention = attention
        self._spec = spec
        self._grammars = grammars
        self._images: dict[str, torch.Tensor] = {}
        self._timer = StepTimer()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        device: Device,
        shard: Shard,
        collective: Collective,
        *,
        blocks: int,
        block_size: int,
        grammars: GrammarCache | None = None,
    ) -> "Runner":
        """Read this rank's weights and reserve its cache.

        `grammars` is for rank 0 only: other ranks' samples are not used.
        Raises CheckpointError if the weights cannot be read, ConfigurationError if the model
        cannot be split over this number of ranks.
        """
        spec = checkpoint.spec
        loading = Loading(checkpoint.stored_bytes(vision=False) // shard.size)
        weights = Weights(
            checkpoint,
            device.dtype,
            device.torch_device,
            loading,
            quantization=device.quantization,
            packs_files=device.packs_files,
            keeps_int8=device.keeps_int8,
        )
        with torch.inference_mode():
            model = LanguageModel(spec, weights, device, collective, shard)
        kv_first, kv_last = shard.kv_heads(spec)
        attention = device.paged_attention()
        attention.allocate(
            layers=spec.layers,
            blocks=blocks,
            block_size=block_size,
            kv_heads=kv_last - kv_first,
            head_dim=spec.head_dim,
        )
        return cls(model, device, attention, spec, grammars)

    @property
    def layers_done(self) -> int:
        """Layers computed since the start."""
        return self._model.layers_done

    @property
    def sample_seconds(self) -> float:
        """Seconds spent sampling since the start."""
        return self._timer["sample"]

    def add_image(self, digest: str, embedding: torch.Tensor) -> None:
        """Keep an image's embedding [image tokens, hidden]: boi, patches, eoi."""
        expected = (self._spec.vision.num_image_tokens, self._spec.hidden_size)
        if tuple(embedding.shape) != expected:
            raise ValueError(f"image {digest}: shape {tuple(embedding.shape)}, expected {expected}")
        self._images[digest] = embedding.to(self._device.torch_device, self._device.dtype)

    def drop_image(self, digest: str) -> None:
        """Free an image's embedding."""
        del self._images[digest]

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """One forward pass; `StepResult` has the tokens.

        Raises KeyError if a chunk's image was not added.
        """
        inputs = self._device.upload(step_inputs(plan))
        hidden = self._forward(plan, inputs)
        scores = tuple(self._prompt_logprobs(hidden, plan, inputs))
        chunks = [chunk for chunk in plan.chunks if chunk.sampling is not None]
        if not chunks:
            return StepResult((), scores)
        logits = self._model.logits(_sampled(hidden, inputs))
        with self._timer.time("sample"):
            return StepResult(self._sample(logits, chunks), scores)

    @torch.inference_mode()
    def follow(self, plan: StepPlan) -> None:
        """The part of `execute` that all ranks compute; rank 0 samples. Raises KeyError."""
        inputs = self._device.upload(step_inputs(plan))
        hidden = self._forward(plan, inputs)
        for _ in self._prompt_logits(hidden, plan, inputs):
            pass
        if len(inputs.sample_indices):
            self._model.logits(_sampled(hidden, inputs))

    def _forward(self, plan: StepPlan, inputs: DeviceInputs) -> torch.Tensor:
        """Hidden states [tokens, hidden] of the step's tokens, or of those sampled after."""
        for copy in plan.copies:
            self._attention.copy_tokens(*copy)
        self._attention.prepare(attention_segments(plan))
        embedded = self._embed(plan, inputs)
        samples = inputs.sample_indices
        all_needed = len(inputs.logprob_indices) > 0 or len(samples) == len(embedded)
        needed = None if all_needed else samples
        return self._model.forward(embedded, inputs.positions, self._attention, needed)

    def _prompt_logits(
        self, hidden: torch.Tensor, plan: StepPlan, inputs: DeviceInputs
    ) -> Iterator[tuple[Chunk, slice, torch.Tensor]]:
        """Chunks with the parts of their scoring, and the logits of each, [part, vocabulary]."""
        first = 0
        for chunk in plan.chunks:
            count = len(chunk.scoring.offsets) if chunk.scoring is not None else 0
            indices = inputs.logprob_indices[first : first + count]
            for start in range(0, count, _LOGPROB_TOKENS):
                part = slice(start, start + _LOGPROB_TOKENS)
                yield chunk, part, self._model.logits(hidden[indices[part]])
            first += count

    def _prompt_logprobs(
        self, hidden: torch.Tensor, plan: StepPlan, inputs: DeviceInputs
    ) -> Iterator[PromptLogprob]:
        for chunk, part, logits in self._prompt_logits(hidden, plan, inputs):
            assert chunk.scoring is not None
            _, indices, token_ids, top = chunk.scoring
            scores = token_logprobs(logits, token_ids[part], top)
            for index, score in zip(indices[part], scores, strict=True):
                yield PromptLogprob(chunk.sequence_id, index, *score)

    def _sample(
        self, logits: torch.Tensor, chunks: Sequence[Chunk]
    ) -> tuple[tuple[SampledToken, ...], ...]:
        """The tokens of each chunk: the one after its last known token, and those after drafts.

        A token depends on its logits, its index and the tokens before it alone. So a draft is
        accepted exactly if it is the token that was sampled in its place, and the next token is
        then the one that a step of its own would have sampled.
        """
        states = [
            state
            for chunk in chunks
            if chunk.sampling is not None
            for state in (chunk.sampling, *chunk.drafts)
        ]
        grammars = self._grammars
        allowed = grammars.allowed(states) if grammars is not None else {}
        sampled = sample(self._device, logits, states, self._spec.tokens, allowed)
        accepted = []
        first = 0
        for chunk in chunks:
            rows = sampled[first : first + chunk.num_sampled]
            tokens = rows[: 1 + right_drafts(chunk, rows)]
            if grammars is not None and first in allowed:
                tokens = grammars.follow(states[first], tokens)
            accepted.append(tuple(tokens))
            first += chunk.num_sampled
        return tuple(accepted)

    def _embed(self, plan: StepPlan, inputs: DeviceInputs) -> torch.Tensor:
        """[tokens, hidden]: word embeddings, and image embeddings in their places."""
        hidden = self._model.embed(inputs.token_ids)
        for span in image_spans(plan):
            hidden[span.tokens] = self._images[span.image][span.embedding]
        return hidden


def _sampled(hidden: torch.Tensor, inputs: DeviceInputs) -> torch.Tensor:
    """Of the hidden states that `_forward` returns, those that tokens are sampled from."""
    samples = inputs.sample_indices
    return hidden if len(hidden) == len(samples) else hidden[samples]


def right_drafts(chunk: Chunk, rows: Sequence[SampledToken]) -> int:
    """How many drafts are the tokens that were sampled in their places."""
    count = len(chunk.drafts)
    drafts = chunk.token_ids[len(chunk.token_ids) - count :]
    is_wrong = (draft != row.token_id for draft, row in zip(drafts, rows, strict=False))
    return next((at for at, wrong in enumerate(is_wrong) if wrong), count)


def to_tensor(packed: TensorBytes) -> torch.Tensor:
    """A copy of the values as a tensor on the host."""
    values = torch.frombuffer(bytearray(packed.data), dtype=_DTYPES[packed.dtype])
    return values.view(packed.shape)
