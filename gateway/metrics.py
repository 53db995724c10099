"""What the metrics of a gateway are read from."""

from glm4v.process.grpc_listener import GrpcListener
from glm4v.telemetry.metrics import Registry


def register_metrics(registry: Registry, listener: GrpcListener) -> None:
    """Register the metrics of one gateway."""
    registry.gauge(
        "glm4v_grpc_calls_in_progress",
        "Calls that have begun and not ended, health checks left out.",
        lambda: listener.calls,
    )
    registry.counter(
        "glm4v_grpc_calls_total",
        "Calls that have ended, by method and status; accepted and refused requests are among "
        "them.",
        lambda: listener.ended_calls,
        ("method", "code"),
    )
