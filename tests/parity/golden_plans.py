"""Golden cases as step plans: a prefill in chunks, then decode steps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.weights import Weights
from glm4v.device import Attention, Device
from glm4v.device.collectives import Collective, SingleRank
from lm_worker.model.layers import Shard
from lm_worker.model.model import LanguageModel
from lm_worker.model.runner import Runner
from lm_worker.plan import Chunk, SampledToken, SamplingParams, SamplingState, StepPlan
from tests.reference import REFERENCE

WHOLE_MODEL = Shard(0, 1)

Golden = Mapping[str, Any]  # arrays by "<case>/<what>"

GREEDY = SamplingState(SamplingParams(), index=0)


def open_golden(name: str) -> Golden:
    """The golden outputs `name`; "bundled" are some of micro-glm4v, kept beside the tests."""
    bundled = Path(__file__).parent / "data" / "micro.npz"
    with np.load(bundled if name == "bundled" else REFERENCE / f"golden-{name}.npz") as golden:
        return dict(golden)


def cases(golden: Golden) -> list[str]:
    """Names of the cases."""
    return sorted({key.split("/")[0] for key in golden if key.endswith("/input_ids")})


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One prompt of the golden file, expanded."""

    name: str
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    image: torch.Tensor | None  # [image rows, hidden]
    next_position: int  # of the first generated token
    tokens: tuple[int, ...]  # 20 greedy ones
    last_logits: torch.Tensor  # [vocabulary]
    top_ids: torch.Tensor  # [20, 16], each after that token
    top_logits: torch.Tensor  # [20, 16]


def read_case(golden: Golden, name: str, spec: ModelSpec) -> GoldenCase:
    """The case `name`, its image rows put in where boi stands."""
    ids = [int(i) for i in golden[f"{name}/input_ids"]]
    token_ids = list(ids)
    image = None
    if f"{name}/vision_embeddings" in golden:
        image = torch.from_numpy(golden[f"{name}/vision_embeddings"])
        slot = ids.index(spec.boi_id)
        token_ids[slot : slot + 3] = [-1 - row for row in range(len(image))]
    return GoldenCase(
        name=name,
        token_ids=tuple(token_ids),
        positions=positions(ids, spec, image is not None),
        image=image,
        next_position=len(ids),
        tokens=tuple(int(i) for i in golden[f"{name}/greedy_tokens"]),
        last_logits=torch.from_numpy(golden[f"{name}/prefill_logits_last"]),
        top_ids=torch.from_numpy(golden[f"{name}/decode_top16_ids"]).long(),
        top_logits=torch.from_numpy(golden[f"{name}/decode_top16_logits"]),
    )


def positions(ids: list[int], spec: ModelSpec, with_image: bool) -> tuple[int, ...]:
    """Rotary positions of the tokens: all patches share that of their placeholder."""
    if not with_image:
        return tuple(range(len(ids)))
    patch = ids.index(spec.boi_id) + 1
    shared = (patch,) * spec.vision.patch_rows
    return (*range(patch), *shared, *range(patch + 1, len(ids)))


def chunks(
    case: GoldenCase, number: int, block_table: tuple[int, ...], size: int
) -> Iterator[Chunk]:
    """The prompt in chunks of `size` tokens, then the golden tokens one by one.

    Tokens come from the golden file, not from sampling, so that every step is compared even
    after a difference.
    """
    token_ids = case.token_ids + case.tokens
    decoded = range(case.next_position, case.next_position + len(case.tokens))
    row_positions = (*case.positions, *decoded)
    prompt = len(case.token_ids)
    bounds = [*range(0, prompt, size), *range(prompt, len(token_ids) + 1)]
    for start, end in pairwise(bounds):
        yield Chunk(
            sequence_id=number,
            token_ids=token_ids[start:end],
            positions=row_positions[start:end],
            context_len=start,
            block_table=block_table,
            image=case.name if case.image is not None else "",
            sampling=replace(GREEDY, index=end - prompt) if end >= prompt else None,
        )


class RecordingModel(LanguageModel):
    """The language model, keeping the logits of its last step."""

    last_logits: torch.Tensor

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As the model's, and kept."""
        self.last_logits = super().logits(hidden)
        return self.last_logits


def load_model(
    checkpoint: Checkpoint,
    device: Device,
    shard: Shard = WHOLE_MODEL,
    collective: Collective | None = None,
) -> RecordingModel:
    """One rank's model."""
    weights = Weights(
        checkpoint,
        device.dtype,
        device.torch_device,
        quantization=device.quantization,
        packs_files=device.packs_files,
        keeps_int8=device.keeps_int8,
    )
    return RecordingModel(checkpoint.spec, weights, device, collective or SingleRank(), shard)


def allocated_attention(
    spec: ModelSpec, device: Device, *, blocks: int, block_size: int, shard: Shard = WHOLE_MODEL
) -> Attention:
    """An attention with an empty cache for one rank."""
    first, last = shard.kv_heads(spec)
    attention = device.paged_attention()
    attention.allocate(
        layers=spec.layers,
        blocks=blocks,
        block_size=block_size,
        kv_heads=last - first,
        head_dim=spec.head_dim,
    )
    return attention


@dataclass(frozen=True, slots=True)
class Played:
    """The output of a runner for one case."""

    tokens: list[SampledToken]  # 21
    logits: torch.Tensor  # [21, vocabulary]


def play(
    model: RecordingModel,
    device: Device,
    spec: ModelSpec,
    played: Sequence[GoldenCase],
    *,
    chunk: int,
    block_size: int,
    shard: Shard = WHOLE_MODEL,
) -> list[Played]:
    """Run cases side by side to their ends, their cache blocks scattered over one cache."""
    rows = [len(case.token_ids) + len(case.tokens) for case in played]
    counts = [-(-count // block_size) for count in rows]
    attention = allocated_attention(
        spec, device, blocks=sum(counts), block_size=block_size, shard=shard
    )
    runner = Runner(model, device, attention, spec)
    scattered = iter(np.random.default_rng(0).permutation(sum(counts)).tolist())
    streams = []
    for number, (case, count) in enumerate(zip(played, counts, strict=True)):
        if case.image is not None:
            runner.add_image(case.name, case.image)
        streams.append(chunks(case, number, tuple(islice(scattered, count)), chunk))
    tokens: list[list[SampledToken]] = [[] for _ in played]
    logits: list[list[torch.Tensor]] = [[] for _ in played]
    step = 0
    while step_chunks := tuple(work for stream in streams if (work := next(stream, None))):
        step += 1
        sampling = [chunk.sequence_id for chunk in step_chunks if chunk.sampling is not None]
        sampled = runner.execute(StepPlan(step, step_chunks)).tokens
        for row, (sequence_id, [token]) in enumerate(zip(sampling, sampled, strict=True)):
            tokens[sequence_id].append(token)
            logits[sequence_id].append(model.last_logits[row].cpu())
    return [Played(t, torch.stack(x)) for t, x in zip(tokens, logits, strict=True)]
