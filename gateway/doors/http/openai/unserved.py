"""Fields of a chat completion that are refused, because ignoring them would change the answer."""

from collections.abc import Mapping
from typing import Any

from gateway.doors.http.errors import InvalidField

REFUSED = {
    "tools": "tools are not served",
    "functions": "tools are not served",
    "audio": "audio is not served",
    "web_search_options": "the web is not searched",
    "use_beam_search": "beam search is not served; n and best_of are",
    "echo": "the prompt is not repeated",
    "continue_final_message": "the last message must be the user's",
    "chat_template": "the template is the checkpoint's",
    "chat_template_kwargs": "the template takes no arguments",
    "mm_processor_kwargs": "images are processed in one way only",
    "prompt_logprobs": "log-probabilities of prompts are served over gRPC only",
    "allowed_token_ids": "use response_format or logit_bias",
    "bad_words": "use logit_bias",
    "truncate_prompt_tokens": "shorten the conversation instead",
    "guided_grammar": "use response_format, guided_regex or guided_choice",
    "thinking_token_budget": "this model does not think aloud",
}
# A value that asks for nothing.
_NOTHING: tuple[Any, ...] = (None, False, "", 0, [], {})


def refuse_unserved(fields: Mapping[str, Any]) -> None:
    """Refuse a field that is not served, unless its value asks for nothing."""
    for name, why in REFUSED.items():
        if fields.get(name) not in _NOTHING:
            raise InvalidField(name, f"{why}; leave it out")
    modalities = fields.get("modalities")
    if modalities not in (None, [], ["text"]):
        raise InvalidField("modalities", "text alone is served")
