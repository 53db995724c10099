"""Carries out step plans on one rank: builds rows, runs the model, chooses tokens."""

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
from lm_worker.sampling.sampler import report, sample
from lm_worker.step_timer import StepTimer
from lm_worker.structured_output.grammar import GrammarCache

_SCORED_ROWS = 64  # logits of so many rows at a time: 39 MB in single precision
NO_MEMORY = (
    "the language worker has not enough memory; free some, or lower GLM4V_KV_CACHE_BYTES or "
    "GLM4V_MAX_BATCHED_TOKENS"
)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Runner:
    """One rank's model, cache and images. Works in the calling thread, and only there."""

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
        self._watch = StepTimer()

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

        `grammars` is for rank 0 alone: the choices of other ranks do not count.
        Raises CheckpointError for weights that cannot be read, ConfigurationError for a number of
        ranks that the model does not divide into.
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
        """Seconds spent choosing tokens since the start."""
        return self._watch["sample"]

    def add_image(self, digest: str, rows: torch.Tensor) -> None:
        """Keep an image's rows [image rows, hidden]: boi, patches, eoi."""
        expected = (self._spec.vision.num_image_tokens, self._spec.hidden_size)
        if tuple(rows.shape) != expected:
            raise ValueError(f"image {digest}: shape {tuple(rows.shape)}, {expected} is needed")
        self._images[digest] = rows.to(self._device.torch_device, self._device.dtype)

    def drop_image(self, digest: str) -> None:
        """Forget an image that was added."""
        del self._images[digest]

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """One forward pass; a token for each chunk that asks for one, in the plan's order.

        Raises KeyError for a chunk whose image was not added.
        """
        self._attention.prepare(
            [AttentionSegment(len(c.token_ids), c.context_len, c.block_table) for c in plan.chunks]
        )
        positions = self._tensor([p for chunk in plan.chunks for p in chunk.positions])
        hidden = self._model.forward(self._embed(plan), positions, self._attention)
        scores = tuple(self._prompt_scores(hidden, plan))
        asked = list(_asked(plan))
        if not asked:
            return StepResult((), scores)
        logits = self._model.logits(hidden[self._tensor([row for row, _, _ in asked])])
        with self._watch.time("sample"):
            return StepResult(self._sample(logits, asked), scores)

    def _prompt_scores(self, hidden: torch.Tensor, plan: StepPlan) -> Iterator[PromptScore]:
        """What the step's rows [rows, hidden] say of the prompts whose scores are wanted."""
        first = 0
        for chunk in plan.chunks:
            if (scoring := chunk.scoring) is not None:
                for start in range(0, len(scoring.rows), _SCORED_ROWS):
                    part = slice(start, start + _SCORED_ROWS)
                    rows = self._tensor([first + row for row in scoring.rows[part]])
                    ids = scoring.token_ids[part]
                    reports = report(self._model.logits(hidden[rows]), ids, scoring.top)
                    for index, reported in zip(scoring.indices[part], reports, strict=True):
                        yield PromptScore(chunk.sequence_id, index, *reported)
            first += len(chunk.token_ids)

    def _sample(
        self, logits: torch.Tensor, asked: list[tuple[int, int, SamplingState]]
    ) -> tuple[SampledToken, ...]:
        specs = [spec for _, _, spec in asked]
        grammars = self._grammars
        allowed = {} if grammars is None else grammars.allowed(specs)
        choices = sample(logits, specs, self._spec.tokens, allowed)
        sampled = []
        for place, (_, sequence_id, spec) in enumerate(asked):
            choice, after = choices[place], (False, "")
            if grammars is not None and place in allowed and choice.token_id != NO_TOKEN:
                after = grammars.after(spec, choice.token_id)
            sampled.append(SampledToken(sequence_id, *choice, *after))
        return tuple(sampled)

    def _embed(self, plan: StepPlan) -> torch.Tensor:
        """[rows, hidden]: word rows, and image rows where ids are negative."""
        ids = [row_id for chunk in plan.chunks for row_id in chunk.token_ids]
        hidden = self._model.embed(self._tensor([max(row_id, 0) for row_id in ids]))
        first = 0
        for chunk in plan.chunks:
            places = [at for at, row_id in enumerate(chunk.token_ids, first) if row_id < 0]
            if places:
                rows = self._tensor([-1 - ids[at] for at in places])
                hidden[self._tensor(places)] = self._images[chunk.image][rows]
            first += len(chunk.token_ids)
        return hidden

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device.torch_device)


def _asked(plan: StepPlan) -> Iterator[tuple[int, int, SamplingState]]:
    """Last row in the step, sequence and wish of each chunk that asks for a token."""
    end = 0
    for chunk in plan.chunks:
        end += len(chunk.token_ids)
        if chunk.sample is not None:
            yield end - 1, chunk.sequence_id, chunk.sample


def to_tensor(packed: TensorBytes) -> torch.Tensor:
    """The tensor in the bytes, on the host, in memory of its own."""
    values = torch.frombuffer(bytearray(packed.data), dtype=_DTYPES[packed.dtype])
    return values.view(packed.shape)
