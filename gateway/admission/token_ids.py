"""A prompt of token ids instead of messages."""

from gateway.text.prompt import Prompt
from glm4v.checkpoint.spec import ModelSpec
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api


def read_token_ids(request: api.GenerateRequest, spec: ModelSpec) -> Prompt:
    """The prompt of a request with `prompt_ids`. Raises InvalidRequest with the index of the id."""
    if request.messages:
        raise InvalidRequest("messages and prompt_ids are both set; set one of them")
    image_ids = (spec.boi_id, spec.eoi_id)
    for number, token_id in enumerate(request.prompt_ids):
        if token_id >= spec.vocab_size:
            raise InvalidRequest(
                f"prompt_ids[{number}] is {token_id}; 0 to {spec.vocab_size - 1} is allowed"
            )
        if token_id in image_ids:
            raise InvalidRequest(
                f"prompt_ids[{number}] is {token_id}, a placeholder of an image; "
                "send the image and its question as messages"
            )
    return Prompt(list(request.prompt_ids), None, text_tokens=len(request.prompt_ids))
