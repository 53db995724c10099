"""GLM-4V as torch modules that can be trained; its state dict has the names of the checkpoint.

The arithmetic is that of modeling_chatglm.py and visual.py of THUDM/glm-4v-9b, as in
`lm_worker.model.model` and `vision_worker.model`, which serve what is trained here.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from glm4v.checkpoint.spec import ModelSpec, VisionSpec

_ADAPTER_NORM_EPS = 1e-5

Turn = tuple[torch.Tensor, torch.Tensor]  # cosines and sines of rotary positions
_Attended = tuple[torch.Tensor, torch.Tensor]  # rows, and shares [batch, heads, rows, rows]


class Glance(NamedTuple):
    """The rows behind a layer, and what they gave of their attention to the picture."""

    rows: torch.Tensor  # of text: [batch, tokens - 3, hidden]
    looks: torch.Tensor  # of text: [batch, heads, tokens - 3, image rows + 2]
    picture: torch.Tensor  # [batch, image rows + 2, hidden]
    among: torch.Tensor  # of the picture: [batch, heads, image rows + 2, image rows + 2]


class VisionAttention(nn.Module):
    """Every row attends to every row."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.query_key_value = nn.Linear(spec.hidden_size, 3 * spec.hidden_size)
        self.dense = nn.Linear(spec.hidden_size, spec.hidden_size)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[batch, rows, width] -> the same."""
        parts = self.query_key_value(rows).view(*rows.shape[:2], 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = _shares(query, key) @ value
        return self.dense(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class VisionMlp(nn.Module):
    """Up, exact GELU, down."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.hidden_size, spec.mlp_size)
        self.fc2 = nn.Linear(spec.mlp_size, spec.hidden_size)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[batch, rows, width] -> the same."""
        return self.fc2(functional.gelu(self.fc1(rows)))  # type: ignore[no-any-return]


class VisionLayer(nn.Module):
    """Attention and MLP, each normalised behind."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(spec.hidden_size, spec.norm_eps)
        self.attention = VisionAttention(spec)
        self.mlp = VisionMlp(spec)
        self.post_attention_layernorm = nn.LayerNorm(spec.hidden_size, spec.norm_eps)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[batch, rows, width] -> the same."""
        rows = rows + self.input_layernorm(self.attention(rows))
        return rows + self.post_attention_layernorm(self.mlp(rows))  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """Patches as rows behind the class token, each with its position added."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        width, patch = spec.hidden_size, spec.patch_size
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_embedding = nn.Parameter(torch.zeros(1, width))
        self.position_embedding = nn.Embedding(spec.positions, width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[batch, 3, size, size] -> [batch, 1 + patches, width]."""
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        first = self.cls_embedding.expand(len(pixels), 1, -1)
        return torch.cat((first, patches), dim=1) + self.position_embedding.weight


class Adapter(nn.Module):
    """From the tower's width to the language model's: a projection, a norm and a gated MLP."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(hidden, hidden, bias=False)
        self.norm1 = nn.LayerNorm(hidden, _ADAPTER_NORM_EPS)
        self.gate_proj = nn.Linear(hidden, ffn, bias=False)
        self.dense_h_to_4h = nn.Linear(hidden, ffn, bias=False)
        self.dense_4h_to_h = nn.Linear(ffn, hidden, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[batch, rows, hidden] -> the same."""
        rows = functional.gelu(self.norm1(self.linear_proj(rows)))
        gated = functional.silu(self.gate_proj(rows)) * self.dense_h_to_4h(rows)
        return self.dense_4h_to_h(gated)  # type: ignore[no-any-return]


class Vision(nn.Module):
    """Pictures to rows of the language model."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        vision = spec.vision
        self.scaling_factor = vision.scaling_factor
        self.grid = vision.grid
        self.patch_embedding = PatchEmbedding(vision)
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(VisionLayer(vision) for _ in range(vision.layers))
        self.conv = nn.Conv2d(vision.hidden_size, spec.hidden_size, 2, stride=2)
        self.linear_proj = Adapter(spec.hidden_size, spec.ffn_size)
        self.boi = nn.Parameter(torch.zeros(1, 1, spec.hidden_size))
        self.eoi = nn.Parameter(torch.zeros(1, 1, spec.hidden_size))

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """[batch, 3, size, size] -> [batch, grid * grid, width], what the tower sees in each."""
        rows = self.patch_embedding(pixels)
        for layer in self.transformer.layers:  # type: ignore[union-attr]
            rows = layer(rows)
        return rows[:, 1:]  # type: ignore[no-any-return]

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """[batch, grid * grid, width] -> [batch, image rows + 2, hidden]."""
        grid = patches.transpose(1, 2).reshape(len(patches), -1, self.grid, self.grid)
        rows = self.linear_proj(self.conv(grid).flatten(2).transpose(1, 2))
        begin, end = (token.expand(len(rows), 1, -1) for token in (self.boi, self.eoi))
        return torch.cat((begin.to(rows.dtype), rows, end.to(rows.dtype)), 1) / self.scaling_factor


class SelfAttention(nn.Module):
    """Causal attention with grouped keys and values."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.counts = [spec.heads, spec.kv_heads, spec.kv_heads]
        self.head_dim = spec.head_dim
        self.query_key_value = nn.Linear(spec.hidden_size, sum(self.counts) * spec.head_dim)
        self.dense = nn.Linear(spec.heads * spec.head_dim, spec.hidden_size, bias=False)

    def forward(self, rows: torch.Tensor, turn: Turn, mask: torch.Tensor) -> _Attended:
        """[batch, rows, hidden] -> the same, and the shares of attention."""
        heads = self.query_key_value(rows).view(*rows.shape[:2], -1, self.head_dim)
        query, key, value = torch.split(heads.transpose(1, 2), self.counts, dim=1)
        query, key = _rotate(query, turn), _rotate(key, turn)
        share = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(share, dim=1) for part in (key, value))
        shares = _shares(query, key, mask)
        return self.dense((shares @ value).transpose(1, 2).flatten(2)), shares


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one weight, gate first."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(spec.hidden_size, 2 * spec.ffn_size, bias=False)
        self.dense_4h_to_h = nn.Linear(spec.ffn_size, spec.hidden_size, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[batch, rows, hidden] -> the same."""
        gate, up = self.dense_h_to_4h(rows).chunk(2, dim=-1)
        return self.dense_4h_to_h(functional.silu(gate) * up)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to what came in."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(spec.hidden_size, spec.norm_eps)
        self.self_attention = SelfAttention(spec)
        self.post_attention_layernorm = nn.RMSNorm(spec.hidden_size, spec.norm_eps)
        self.mlp = GatedMlp(spec)

    def forward(self, rows: torch.Tensor, turn: Turn, mask: torch.Tensor) -> _Attended:
        """[batch, rows, hidden] -> the same, and the shares of attention."""
        attended, shares = self.self_attention(self.input_layernorm(rows), turn, mask)
        rows = rows + attended
        return rows + self.mlp(self.post_attention_layernorm(rows)), shares


class Network(nn.Module):
    """The whole model; `transformer` is the root of all names in a checkpoint."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        root = self.transformer = nn.Module()
        root.embedding = nn.Module()
        root.embedding.word_embeddings = nn.Embedding(spec.vocab_size, spec.hidden_size)
        root.encoder = nn.Module()
        root.encoder.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(spec.layers))
        root.encoder.final_layernorm = nn.RMSNorm(spec.hidden_size, spec.norm_eps)
        root.output_layer = nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)
        root.vision = Vision(spec)

    @property
    def vision(self) -> Vision:
        """The tower and the adapter."""
        return self.transformer.vision  # type: ignore[return-value]

    def forward(
        self,
        ids: torch.Tensor,
        picture: torch.Tensor | None,
        slot: int,
        positions: torch.Tensor,
        topics: torch.Tensor,
    ) -> tuple[torch.Tensor, list[Glance]]:
        """Logits behind the rows of text: [batch, tokens - 3, vocabulary] with a picture.

        And what each layer knows of the picture.

        `ids`, `positions` and `topics` [batch, tokens] with the picture as 3 placeholders at
        `slot`, the same for all (see `turns`); `picture` [batch, image rows + 2, hidden]. Without a
        picture there are logits of all tokens, and no glances.
        """
        root = self.transformer
        rows = root.embedding.word_embeddings(ids)  # type: ignore[union-attr, operator]
        if picture is not None:
            rows = torch.cat((rows[:, :slot], picture, rows[:, slot + 3 :]), dim=1)
            repeats = torch.ones_like(ids[0])
            repeats[slot + 1] = picture.shape[1] - 2  # all patches share one position
            positions = positions.repeat_interleave(repeats, dim=1)
            topics = topics.repeat_interleave(repeats, dim=1)
        turn = _turn(positions, self.spec)
        mask = _mask(topics)
        glances: list[Glance] = []
        for layer in root.encoder.layers:  # type: ignore[union-attr]
            rows, shares = layer(rows, turn, mask)
            if picture is not None:
                end = slot + picture.shape[1]
                given = shares[..., slot:end]
                glances.append(
                    Glance(
                        _text_of(rows, slot, end, 1),
                        _text_of(given, slot, end, 2),
                        rows[:, slot:end],
                        given[:, :, slot:end],
                    )
                )
        if picture is not None:
            rows = _text_of(rows, slot, end, 1)
        return root.output_layer(root.encoder.final_layernorm(rows)), glances  # type: ignore


def _text_of(rows: torch.Tensor, slot: int, end: int, dim: int) -> torch.Tensor:
    """All rows but those of the picture, `slot` to `end` in dimension `dim`."""
    behind = rows.narrow(dim, end, rows.shape[dim] - end)
    return torch.cat((rows.narrow(dim, 0, slot), behind), dim)


def _shares(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """What each row gives of its attention to each: [batch, heads, rows, rows], 1 in all.

    Written out because torch's fused kernel takes two to three times as long to learn on a CPU, and
    because `grounding` looks at it.
    """
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    shares: torch.Tensor = scores.softmax(-1)
    return shares


def _mask(topics: torch.Tensor) -> torch.Tensor:
    """What is added to scores, [batch, 1, rows, rows]: nothing, or minus infinity.

    A row sees those before it that are of topic 0, or of its own.
    """
    seen = (topics[:, None, :] == topics[:, :, None]) | (topics[:, None, :] == 0)
    mask = torch.zeros(seen.shape, device=topics.device).masked_fill(~seen.tril(), -torch.inf)
    return mask[:, None]


def _turn(positions: torch.Tensor, spec: ModelSpec) -> Turn:
    """Cosines and sines [batch, 1, rows, pairs]."""
    pairs = torch.arange(0, spec.rotary_dim, 2, device=positions.device) / spec.rotary_dim
    angles = positions[:, None, :, None].float() * (1.0 / spec.rope_base**pairs)
    return angles.cos(), angles.sin()


def _rotate(heads: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Turn neighbouring pairs of the leading dimensions of [..., rows, head_dim]."""
    cosine, sine = turn
    count = 2 * cosine.shape[-1]
    turned, kept = heads[..., :count], heads[..., count:]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    pairs = torch.stack((even * cosine - odd * sine, odd * cosine + even * sine), dim=-1)
    return torch.cat((pairs.flatten(-2).to(heads.dtype), kept), dim=-1)
