"""transformers' part of `python -m bench.gpu`: models of the same geometry.

GLM-4V-9B has no class in transformers itself. Its language model is that of GLM-4-9B (`Glm`). The
vision tower's nearest is SigLIP's: the same matrices and attention, norms before instead of behind
each part, no class token, and no adapter.
"""

import torch
from transformers import GlmConfig, GlmForCausalLM, SiglipVisionConfig, SiglipVisionModel

from glm4v.checkpoint.spec import ModelSpec
from glm4v.device import Device


class TheirLanguageModel:
    """GlmForCausalLM with its default cache."""

    def __init__(self, spec: ModelSpec, device: Device, *, context: int) -> None:
        config = GlmConfig(
            hidden_size=spec.hidden_size,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            intermediate_size=spec.ffn_size,
            vocab_size=spec.vocab_size,
            rms_norm_eps=spec.norm_eps,
            pad_token_id=0,
            eos_token_id=0,
            attn_implementation="sdpa",
        )
        with torch.device(device.torch_device):
            self._model = GlmForCausalLM._from_config(config, dtype=device.dtype).eval()
        self._prompt = torch.arange(context, device=device.torch_device)[None] % 1000
        self._cache: object = None
        self._next = self._prompt[:, :1]

    @torch.inference_mode()
    def prefill(self, batch: int = 1) -> None:
        """`batch` prompts at once, up to their first tokens."""
        prompts = self._prompt.expand(batch, -1)
        output = self._model(prompts, use_cache=True, logits_to_keep=1)
        self._take(output)

    @torch.inference_mode()
    def decode(self) -> None:
        """One token for each sequence of the last prefill."""
        self._take(self._model(self._next, cache=self._cache, use_cache=True))

    def _take(self, output: object) -> None:
        self._cache = output.cache  # type: ignore[attr-defined]
        self._next = output.logits[:, -1:].argmax(-1)  # type: ignore[attr-defined]
        self._next.cpu()


class TheirVisionModel:
    """SiglipVisionModel without its pooling head."""

    def __init__(self, spec: ModelSpec, device: Device) -> None:
        vision = spec.vision
        config = SiglipVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.mlp_size,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_act="gelu",
            vision_use_head=False,
            attn_implementation="sdpa",
        )
        with torch.device(device.torch_device):
            self._model = SiglipVisionModel._from_config(config, dtype=device.dtype).eval()
        size = vision.image_size
        self._pixels = torch.zeros(1, 3, size, size, dtype=device.dtype, device=device.torch_device)

    @torch.inference_mode()
    def encode(self) -> None:
        """One image, its hidden states copied to the host."""
        self._model(self._pixels).last_hidden_state.cpu()
