"""Golden conversations as requests."""

import json

import numpy as np

from glm4v.v1 import inference_pb2 as api
from tests.parity.golden_plans import Golden
from tests.reference import REFERENCE

_ROLES = {
    "system": api.ROLE_SYSTEM,
    "user": api.ROLE_USER,
    "assistant": api.ROLE_ASSISTANT,
}


def conversation(golden: Golden, case: str) -> list[api.Message]:
    """The messages of a golden case, its image as the bytes of its file."""
    messages = []
    for turn in json.loads(str(golden[f"{case}/conversation"])):
        parts = []
        if turn.get("image"):
            parts.append(api.ContentPart(image=api.Image(data=image(golden, case))))
        if turn.get("content"):
            parts.append(api.ContentPart(text=turn["content"]))
        messages.append(api.Message(role=_ROLES[turn["role"]], parts=parts))
    return messages


def image(golden: Golden, case: str) -> bytes:
    """The image file of a golden case."""
    name = str(golden[f"{case}/image_file"])
    if f"files/{name}" in golden:
        return bytes(golden[f"files/{name}"].tobytes())
    return (REFERENCE / "inputs" / name).read_bytes()


def greedy_tokens(golden: Golden, case: str) -> list[int]:
    """The 20 tokens the original implementation chose."""
    return [int(i) for i in np.ravel(golden[f"{case}/greedy_tokens"])]


def input_ids(golden: Golden, case: str) -> list[int]:
    """The prompt's token ids, the image as its 3 placeholder tokens."""
    return [int(i) for i in np.ravel(golden[f"{case}/input_ids"])]
