"""The numbers of a GLM-4V checkpoint, read from its config.json and checked.

Source of every name: config.json and configuration_chatglm.py of THUDM/glm-4v-9b.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v.checkpoint.files import read_json_object
from glm4v.checkpoint.generation_config import read_generation_config, token_ids
from glm4v.errors import CheckpointError, ConfigurationError

# The published name, the class that `save_pretrained` of transformers writes, and vLLM's name.
ARCHITECTURES = ("ChatGLMModel", "ChatGLMForConditionalGeneration", "GLM4VForCausalLM")

# What the model's code fixes and this implementation relies on: other values are another model.
_FIXED: dict[str, Any] = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "original_rope": True,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "multi_query_attention": True,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The vision tower (EVA2-CLIP) and the adapter behind it."""

    hidden_size: int
    layers: int
    heads: int
    mlp_size: int
    patch_size: int  # pixels
    image_size: int  # pixels, side of the square
    norm_eps: float
    scaling_factor: float

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def positions(self) -> int:
        """Rows of the tower: the class token and all patches."""
        return self.grid**2 + 1

    @property
    def patch_rows(self) -> int:
        """Rows left after the 2x2 convolution (1600 for glm-4v-9b)."""
        return (self.grid // 2) ** 2

    @property
    def num_image_tokens(self) -> int:
        """Rows an image takes in the language model: boi, patches, eoi (1602 for glm-4v-9b)."""
        return self.patch_rows + 2


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The language model, the special ids and the vision tower."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int  # rows of the word table and the head, padding included
    context_tokens: int  # most un-expanded tokens
    norm_eps: float
    rope_base: float
    first_special_id: int  # <|endoftext|>; the 13 others follow in a fixed order
    boi_id: int
    eoi_id: int
    eos_ids: tuple[int, ...]  # those of generation_config.json, where it names any
    vision: VisionSpec

    SPECIAL_TOKENS = 14

    @property
    def tokens(self) -> int:
        """Ids that stand for something; logits columns from here on are padding."""
        return self.first_special_id + self.SPECIAL_TOKENS

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of a head that are rotated."""
        return self.head_dim // 2

    def check_ranks(self, size: int) -> None:
        """Raise ConfigurationError when the language model does not divide into as many parts."""
        for name, count in (
            ("attention heads", self.heads),
            ("MLP rows", self.ffn_size),
            ("vocabulary rows", self.vocab_size),
        ):
            if count % size:
                raise ConfigurationError(
                    f"{count} {name} do not divide into {size} ranks; use fewer ranks"
                )
        if self.kv_heads % size and size % self.kv_heads:
            raise ConfigurationError(
                f"{self.kv_heads} key/value heads and {size} ranks: "
                "one must divide the other; use another number of ranks"
            )


def read_spec(model_dir: Path) -> ModelSpec:
    """Read and check `config.json`; raises CheckpointError naming the field that does not fit."""
    path = model_dir / "config.json"
    try:
        config = read_json_object(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this a GLM-4V checkpoint?") from None
    _check_architecture(path, config)
    try:
        eos_ids, says_so = _eos_ids(model_dir, config)
        spec = _parse(config, eos_ids)
    except KeyError as error:
        raise CheckpointError(f"{path}: field {error} is missing") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: a field has the wrong type: {error}") from None
    _check_sizes(path, config, spec)
    if not all(0 <= i < spec.tokens for i in eos_ids):
        raise CheckpointError(
            f"{says_so}: eos_token_id {list(eos_ids)} is beyond the {spec.tokens} tokens of "
            "config.json"
        )
    return spec


def _check_architecture(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse other models by name, transformers' own glm4v (GLM-4.1V) above all."""
    model_type = config.get("model_type")
    architectures = config.get("architectures") or []  # some tools leave it out
    if not isinstance(architectures, list):
        raise CheckpointError(f"{path}: architectures is {architectures!r}; a list is needed")
    if model_type in ("glm4v", "glm4v_moe", "glm4v_text") or any(
        str(a).startswith("Glm4v") for a in architectures
    ):
        raise CheckpointError(
            f"{path}: model_type {model_type!r} is GLM-4.1V, another model of a similar name; "
            "THUDM/glm-4v-9b (model_type 'chatglm') is needed"
        )
    if model_type != "chatglm" or any(a not in ARCHITECTURES for a in architectures):
        raise CheckpointError(
            f"{path}: model_type {model_type!r}, architectures {architectures!r}; 'chatglm' and "
            f"one of {', '.join(ARCHITECTURES)} are needed (THUDM/glm-4v-9b)"
        )
    if not isinstance(config.get("vision_config"), dict):
        raise CheckpointError(f"{path}: no vision_config; this is a text-only ChatGLM checkpoint")
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{path}: {name} is {config[name]!r}; only {value!r} is implemented"
            )


def _eos_ids(model_dir: Path, config: Mapping[str, Any]) -> tuple[tuple[int, ...], Path]:
    """The tokens that end an answer, and the file that says so.

    `generate()` of transformers 4.48.3 takes those of generation_config.json alone where that file
    exists. One that names none would let every answer run on; then config.json counts here.
    """
    configured = token_ids(config.get("eos_token_id"))
    generation = read_generation_config(model_dir)
    if generation.eos_ids:
        return generation.eos_ids, generation.path
    if not configured:
        raise CheckpointError(
            f"{model_dir}: no eos_token_id in generation_config.json or config.json; no answer "
            "would end: copy generation_config.json from THUDM/glm-4v-9b"
        )
    return configured, model_dir / "config.json"


def _parse(config: Mapping[str, Any], eos_ids: tuple[int, ...]) -> ModelSpec:
    vision = config["vision_config"]
    return ModelSpec(
        hidden_size=int(config["hidden_size"]),
        layers=int(config["num_layers"]),
        heads=int(config["num_attention_heads"]),
        kv_heads=int(config["multi_query_group_num"]),
        head_dim=int(config["kv_channels"]),
        ffn_size=int(config["ffn_hidden_size"]),
        vocab_size=int(config["padded_vocab_size"]),
        context_tokens=int(config["seq_length"]),
        norm_eps=float(config["layernorm_epsilon"]),
        rope_base=10000.0 * float(config.get("rope_ratio", 1)),
        first_special_id=int(config["pad_token_id"]),
        boi_id=int(config["boi_token_id"]),
        eoi_id=int(config["eoi_token_id"]),
        eos_ids=eos_ids,
        vision=VisionSpec(
            hidden_size=int(vision["hidden_size"]),
            layers=int(vision["num_hidden_layers"]),
            heads=int(vision["num_heads"]),
            mlp_size=int(vision["intermediate_size"]),
            patch_size=int(vision["patch_size"]),
            image_size=int(vision["image_size"]),
            norm_eps=float(vision["layer_norm_eps"]),
            scaling_factor=float(vision["scaling_factor"]),
        ),
    )


def _check_sizes(path: Path, config: Mapping[str, Any], spec: ModelSpec) -> None:
    vision = spec.vision
    for owner in (spec, vision):
        for name in owner.__dataclass_fields__:
            value = getattr(owner, name)
            if isinstance(value, int | float) and value <= 0:
                raise CheckpointError(f"{path}: {name} is {value}; it must be positive")
    rules = {
        "pad_token_id": spec.tokens <= spec.vocab_size,
        "boi_token_id": spec.boi_id == spec.first_special_id + 10,
        "eoi_token_id": spec.eoi_id == spec.first_special_id + 11,
        "multi_query_group_num": spec.heads % spec.kv_heads == 0,
        "kv_channels": spec.head_dim % 4 == 0,
        "vision_config.num_heads": vision.hidden_size % vision.heads == 0,
        "vision_config.image_size": vision.image_size % (2 * vision.patch_size) == 0,
        "vision_config.num_positions": (
            config["vision_config"].get("num_positions", vision.positions) == vision.positions
        ),
        "vision_config.in_channels": config["vision_config"].get("in_channels", 3) == 3,
        "vision_config.hidden_act": config["vision_config"].get("hidden_act", "gelu") == "gelu",
    }
    for name, holds in rules.items():
        if not holds:
            raise CheckpointError(f"{path}: {name} does not fit the other fields")
