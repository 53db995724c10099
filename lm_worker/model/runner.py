"""Executes step plans on one rank: embeds tokens, runs the model, samples."""

from collections.abc import Iterator

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.loading import Loading
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.weights import Weights
from glm4v.device import Attention, AttentionSegment, Device
from glm4v.device.collectives import Collective
from glm4v.tensor_bytes import TensorBytes
from lm_worker.model.layers import Shard
from lm_worker.model.model import LanguageModel
from lm_worker.plan import NO_TOKEN, PromptScore, SampledToken, SamplingState, StepPlan, StepResult
from lm_worker.sampling.sampler import sample, token_logprobs
from lm_worker.step_timer import StepTimer
from lm_worker.structured_output.grammar import GrammarCache

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
        weights = Weights(checkpoint, device.dtype, device.torch_device, loading)
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
        """One forward pass; one token for each chunk that samples, in the plan's order.

        Raises KeyError if a chunk's image was not added.
        """
        self._attention.prepare(
            [AttentionSegment(len(c.token_ids), c.context_len, c.block_table) for c in plan.chunks]
        )
        positions = self._tensor([p for chunk in plan.chunks for p in chunk.positions])
        hidden = self._model.forward(self._embed(plan), positions, self._attention)
        scores = tuple(self._prompt_scores(hidden, plan))
        requests = list(_sampling_requests(plan))
        if not requests:
            return StepResult((), scores)
        logits = self._model.logits(hidden[self._tensor([at for at, _, _ in requests])])
        with self._timer.time("sample"):
            return StepResult(self._sample(logits, requests), scores)

    def _prompt_scores(self, hidden: torch.Tensor, plan: StepPlan) -> Iterator[PromptScore]:
        """Prompt log-probabilities from the step's hidden states [tokens, hidden]."""
        first = 0
        for chunk in plan.chunks:
            if (scoring := chunk.scoring) is not None:
                for start in range(0, len(scoring.offsets), _LOGPROB_TOKENS):
                    part = slice(start, start + _LOGPROB_TOKENS)
                    at = self._tensor([first + offset for offset in scoring.offsets[part]])
                    ids = scoring.token_ids[part]
                    scores = token_logprobs(self._model.logits(hidden[at]), ids, scoring.top)
                    for index, score in zip(scoring.indices[part], scores, strict=True):
                        yield PromptScore(chunk.sequence_id, index, *score)
            first += len(chunk.token_ids)

    def _sample(
        self, logits: torch.Tensor, requests: list[tuple[int, int, SamplingState]]
    ) -> tuple[SampledToken, ...]:
        states = [state for _, _, state in requests]
        grammars = self._grammars
        allowed = {} if grammars is None else grammars.allowed(states)
        choices = sample(self._device, logits, states, self._spec.tokens, allowed)
        sampled = []
        for index, (_, sequence_id, state) in enumerate(requests):
            choice, status = choices[index], (False, "")
            if grammars is not None and index in allowed and choice.token_id != NO_TOKEN:
                status = grammars.status_after(state, choice.token_id)
            sampled.append(SampledToken(sequence_id, *choice, *status))
        return tuple(sampled)

    def _embed(self, plan: StepPlan) -> torch.Tensor:
        """[tokens, hidden]: word embeddings, and image embeddings where ids are negative."""
        ids = [token_id for chunk in plan.chunks for token_id in chunk.token_ids]
        hidden = self._model.embed(self._tensor([max(token_id, 0) for token_id in ids]))
        first = 0
        for chunk in plan.chunks:
            image_tokens = [
                at for at, token_id in enumerate(chunk.token_ids, first) if token_id < 0
            ]
            if image_tokens:
                patches = self._tensor([-1 - ids[at] for at in image_tokens])
                hidden[self._tensor(image_tokens)] = self._images[chunk.image][patches]
            first += len(chunk.token_ids)
        return hidden

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device.torch_device)


def _sampling_requests(plan: StepPlan) -> Iterator[tuple[int, int, SamplingState]]:
    """For each chunk that samples: its last token's index in the step, its sequence, its state."""
    end = 0
    for chunk in plan.chunks:
        end += len(chunk.token_ids)
        if chunk.sampling is not None:
            yield end - 1, chunk.sequence_id, chunk.sampling


def to_tensor(packed: TensorBytes) -> torch.Tensor:
    """A copy of the values as a tensor on the host."""
    values = torch.frombuffer(bytearray(packed.data), dtype=_DTYPES[packed.dtype])
    return values.view(packed.shape)
