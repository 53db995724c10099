"""The client of a gateway; it needs grpcio and protobuf, nothing else."""

from glm4v.client.client import DEFAULT_TARGET, Client
from glm4v.client.generation import Generation
from glm4v.client.options import GenerateOptions

__all__ = ["DEFAULT_TARGET", "Client", "GenerateOptions", "Generation"]
