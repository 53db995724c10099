"""Token counts as other servers count them."""

from glm4v.v1 import inference_pb2 as api

_PLACEHOLDERS = 3  # tokens of a prompt that stand for its image


def prompt_tokens(usage: api.Usage) -> int:
    """Tokens of a prompt, an image counted as what the language model reads (1602 for glm-4v-9b),
    as MindIE, TGI and vLLM do.
    """
    if not usage.image_tokens:
        return usage.prompt_tokens
    return usage.prompt_tokens - _PLACEHOLDERS + usage.image_tokens


def total_usage(choices: "list[api.Usage]") -> tuple[int, int]:
    """Prompt tokens, counted once, and the generated tokens of all choices."""
    return prompt_tokens(choices[0]), sum(usage.completion_tokens for usage in choices)
