"""Which tensors a GLM-4V checkpoint holds, and their shapes."""

from collections.abc import Iterator

from glm4v.checkpoint.spec import ModelSpec, VisionSpec

WORD_EMBEDDINGS = "transformer.embedding.word_embeddings.weight"
OPTIONAL_TENSOR = "transformer.rotary_pos_emb.inv_freq"  # a stored buffer that nobody needs


def expected_tensors(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor a checkpoint of this configuration has, with its shape.

    Source: the state dict of modeling_chatglm.py and visual.py of THUDM/glm-4v-9b; linear weights
    are [out, in].
    """
    hidden = spec.hidden_size
    query, key = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    yield WORD_EMBEDDINGS, (spec.vocab_size, hidden)
    yield OPTIONAL_TENSOR, (spec.rotary_dim // 2,)
    for n in range(spec.layers):
        layer = f"transformer.encoder.layers.{n}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attention.query_key_value.weight", (query + 2 * key, hidden)
        yield layer + "self_attention.query_key_value.bias", (query + 2 * key,)
        yield layer + "self_attention.dense.weight", (hidden, query)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.dense_h_to_4h.weight", (2 * spec.ffn_size, hidden)
        yield layer + "mlp.dense_4h_to_h.weight", (hidden, spec.ffn_size)
    yield "transformer.encoder.final_layernorm.weight", (hidden,)
    yield "transformer.output_layer.weight", (spec.vocab_size, hidden)
    yield from _expected_vision(spec.vision, hidden, spec.ffn_size)


def _expected_vision(
    vision: VisionSpec, hidden: int, ffn: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, mlp, patch = vision.hidden_size, vision.mlp_size, vision.patch_size
    root = "transformer.vision."
    yield root + "boi", (1, 1, hidden)
    yield root + "eoi", (1, 1, hidden)
    yield root + "patch_embedding.cls_embedding", (1, width)
    yield root + "patch_embedding.proj.weight", (width, 3, patch, patch)
    yield root + "patch_embedding.proj.bias", (width,)
    yield root + "patch_embedding.position_embedding.weight", (vision.positions, width)
    for m in range(vision.layers):
        block = f"{root}transformer.layers.{m}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{block}{norm}.weight", (width,)
            yield f"{block}{norm}.bias", (width,)
        for name, rows, columns in (
            ("attention.query_key_value", 3 * width, width),
            ("attention.dense", width, width),
            ("mlp.fc1", mlp, width),
            ("mlp.fc2", width, mlp),
        ):
            yield f"{block}{name}.weight", (rows, columns)
            yield f"{block}{name}.bias", (rows,)
    yield root + "linear_proj.linear_proj.weight", (hidden, hidden)
    yield root + "linear_proj.norm1.weight", (hidden,)
    yield root + "linear_proj.norm1.bias", (hidden,)
    yield root + "linear_proj.gate_proj.weight", (ffn, hidden)
    yield root + "linear_proj.dense_h_to_4h.weight", (ffn, hidden)
    yield root + "linear_proj.dense_4h_to_h.weight", (hidden, ffn)
    yield root + "conv.weight", (hidden, width, 2, 2)
    yield root + "conv.bias", (hidden,)
