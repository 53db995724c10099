"""The metrics of a gateway."""

from collections.abc import Awaitable, Callable, Mapping

from gateway.doors.http.listener import HttpListener
from glm4v.broker.queue_lengths import QueueLength, QueueLengths
from glm4v.process.grpc_listener import GrpcListener
from glm4v.telemetry.metrics import Registry

_Lengths = Callable[[], Awaitable[QueueLengths]]


def register_metrics(
    registry: Registry,
    listener: GrpcListener,
    lengths: _Lengths,
    embedding_lookups: Mapping[str, int],
    workers: Callable[[], Awaitable[Mapping[tuple[str, str], int]]],
) -> None:
    """Register the metrics of one gateway; those of queues are the same in all gateways."""
    registry.gauge(
        "glm4v_grpc_calls_in_progress",
        "Calls that have not ended, except health checks.",
        lambda: listener.calls,
    )
    registry.counter(
        "glm4v_grpc_calls_total",
        "Calls that have ended, by method and status; these include accepted and refused requests.",
        lambda: listener.ended_calls,
        ("method", "code"),
    )
    registry.counter(
        "glm4v_embedding_lookups_total",
        "Requests with an image, by whether its embedding was stored.",
        lambda: {(result,): count for result, count in embedding_lookups.items()},
        ("result",),
    )
    registry.gauge(
        "glm4v_workers",
        "Workers, by what they do; silent ones hang or have died.",
        workers,
        ("queue", "state"),
    )
    _register_queues(registry, lengths)


def _register_queues(registry: Registry, lengths: _Lengths) -> None:
    async def open_requests() -> int:
        return (await lengths()).open_requests

    async def waiting_clients() -> int:
        return (await lengths()).waiting_clients

    def of_each_queue(
        value: Callable[[QueueLength], float],
    ) -> Callable[[], Awaitable[dict[tuple[str], float]]]:
        async def read() -> dict[tuple[str], float]:
            found = await lengths()
            return {("language",): value(found.language), ("vision",): value(found.vision)}

        return read

    registry.gauge("glm4v_open_requests", "Requests that have not ended.", open_requests)
    registry.gauge(
        "glm4v_queue_jobs",
        "Jobs in the streams of workers, claimed or not.",
        of_each_queue(lambda length: length.jobs),
        ("queue",),
    )
    registry.gauge(
        "glm4v_queue_waiting_jobs",
        "Jobs that no worker has claimed.",
        of_each_queue(lambda length: length.waiting),
        ("queue",),
    )
    registry.gauge(
        "glm4v_queue_oldest_seconds",
        "Time that the oldest job has waited for a worker.",
        of_each_queue(lambda length: length.oldest_s),
        ("queue",),
    )
    registry.gauge(
        "glm4v_queue_waiting_clients",
        "Clients with requests that wait outside of the language workers' stream.",
        waiting_clients,
    )


def register_http_metrics(registry: Registry, listener: HttpListener) -> None:
    """Register the metrics of a gateway's HTTP listener."""
    registry.gauge(
        "glm4v_http_requests_in_progress",
        "HTTP requests that have not ended, except health checks.",
        lambda: listener.calls,
    )
    registry.counter(
        "glm4v_http_requests_total",
        "HTTP requests that have ended, by route and status (499: the client left before it).",
        lambda: listener.ended_calls,
        ("route", "code"),
    )
