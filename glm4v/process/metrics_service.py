"""The metrics of a process over gRPC, for its health listener."""

from typing import Any

from grpc import aio

from glm4v.internal.v1 import metrics_pb2 as pb
from glm4v.internal.v1 import metrics_pb2_grpc
from glm4v.telemetry.metrics import Kind, Metric, Registry

_KINDS = {Kind.COUNTER: pb.METRIC_KIND_COUNTER, Kind.GAUGE: pb.METRIC_KIND_GAUGE}


class MetricsServicer(metrics_pb2_grpc.MetricsServiceServicer):
    """Reads a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Collect(self, request: pb.CollectRequest, context: Any) -> pb.CollectResponse:
        """See the protocol."""
        return pb.CollectResponse(metrics=map(_message, await self._registry.collect()))


def register_metrics(servicer: MetricsServicer, server: aio.Server) -> None:
    """Add the service to a server."""
    metrics_pb2_grpc.add_MetricsServiceServicer_to_server(servicer, server)


def _message(metric: Metric) -> pb.Metric:
    return pb.Metric(
        name=metric.name,
        kind=_KINDS[metric.kind],
        help=metric.help,
        samples=[pb.Sample(labels=each.labels, value=each.value) for each in metric.samples],
    )
