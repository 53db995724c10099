"""The client of gateways, with and without asyncio. It needs grpcio and protobuf, nothing else."""

from glm4v.client.async_client import AsyncClient
from glm4v.client.async_generation import AsyncGeneration
from glm4v.client.client import Client
from glm4v.client.generation import Generation
from glm4v.client.messages import assistant_message, system_message, user_message
from glm4v.client.options import GenerateOptions
from glm4v.client.session import DEFAULT_TARGET
from glm4v.client.tls import Tls

__all__ = [
    "DEFAULT_TARGET",
    "AsyncClient",
    "AsyncGeneration",
    "Client",
    "GenerateOptions",
    "Generation",
    "Tls",
    "assistant_message",
    "system_message",
    "user_message",
]
