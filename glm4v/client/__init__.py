"""The client of a gateway. It needs grpcio and protobuf, nothing else."""

from glm4v.client.client import DEFAULT_TARGET, Client
from glm4v.client.generation import Generation
from glm4v.client.messages import assistant_message, user_message
from glm4v.client.options import GenerateOptions

__all__ = [
    "DEFAULT_TARGET",
    "Client",
    "GenerateOptions",
    "Generation",
    "assistant_message",
    "user_message",
]
