"""GLM-4V-9B as gRPC microservices: what its processes share."""

__version__ = "0.1.0"
