"""The gateway process: settings → objects → service."""

from dataclasses import replace
from functools import partial

from glm4v.process.extras import extra

with extra("gateway"):
    from gateway.access.authentication import Authentication
    from gateway.admission.admission import Admission, AdmissionLimits
    from gateway.admission.sampling import read_defaults
    from gateway.doors.grpc_services import register
    from gateway.doors.http.app import make_app
    from gateway.doors.http.dialect import Dialect
    from gateway.doors.http.listener import HttpListener
    from gateway.facade import Gateway, describe
    from gateway.metrics import register_http_metrics, register_metrics
    from gateway.records.records import open_records
    from gateway.streaming.follow import RequestFollower
    from gateway.text.tokenizer import Tokenizer
    from glm4v.api_keys import ApiKeys
    from glm4v.broker import Broker, Keys
    from glm4v.broker.queue_lengths import queue_lengths
    from glm4v.broker.worker_reports import count_workers
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.host.allocator import limit_arenas
    from glm4v.images import ImageLimits
    from glm4v.process.call_limits import CallLimits
    from glm4v.process.exposure import check_exposure
    from glm4v.process.grpc_listener import GrpcListener
    from glm4v.process.redis_connection import connect
    from glm4v.process.service import Process, main
    from glm4v.process.settings import GatewaySettings
    from glm4v.process.tls import tls_files
    from glm4v.telemetry.metrics import Registry

_MESSAGE_REST = 8 * 2**20  # bytes of a message beside its image


def build(settings: GatewaySettings) -> Process:
    """Wire one gateway."""
    limit_arenas()
    check_exposure(settings, *filter(None, (settings.listen, settings.http_listen)))
    api_keys = ApiKeys(settings.api_keys) if settings.api_keys else None
    authentication = Authentication(api_keys, certificates=settings.tls_client_ca is not None)
    checkpoint = Checkpoint.open(settings.model)
    connection = connect(settings)
    keys = Keys(settings.namespace)
    broker = Broker(
        connection,
        keys,
        max_open_requests=settings.max_open_requests,
        result_ttl_s=settings.result_ttl_s,
        max_open_image_bytes=settings.max_open_image_bytes,
    )
    metrics = Registry()
    gateway = _gateway(settings, checkpoint, broker)
    grpc_listener, *others = _listeners(settings, gateway, metrics, authentication)
    records = open_records(connection, keys, metrics)

    async def drain() -> None:
        await process.stopping.wait()
        broker.stop_reading()

    async def close() -> None:
        await records.close()
        await connection.close()

    process = Process(
        ready=partial(broker.ready, checkpoint.fingerprint),
        listeners=[grpc_listener, *others],
        tasks=[drain],
        daemons=[broker.run, records.run, *([api_keys.watch] if api_keys else [])],
        close=close,
        metrics=metrics,
    )
    lengths = partial(queue_lengths, connection, keys, checkpoint.fingerprint)
    workers = partial(count_workers, connection, keys)
    register_metrics(metrics, grpc_listener, lengths, broker.embedding_lookups, workers)
    for each in others:
        register_http_metrics(metrics, each)
    return process


def _gateway(settings: GatewaySettings, checkpoint: Checkpoint, broker: Broker) -> Gateway:
    spec = checkpoint.spec
    tokenizer = Tokenizer.read(settings.model, spec)
    defaults = read_defaults(settings.model)
    limits = AdmissionLimits(
        ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
        default_deadline_s=settings.default_deadline_s,
        max_deadline_s=settings.max_deadline_s,
    )
    return Gateway(
        broker,
        Admission(spec, checkpoint.fingerprint, tokenizer, defaults, limits),
        RequestFollower(
            broker,
            tokenizer,
            fingerprint=checkpoint.fingerprint,
            image_tokens=spec.vision.num_image_tokens,
            keepalive_s=settings.stream_keepalive_s,
        ),
        describe(checkpoint, defaults, limits.images),
        tokenizer,
    )


def _listeners(
    settings: GatewaySettings,
    gateway: Gateway,
    metrics: Registry,
    authentication: Authentication,
) -> tuple[GrpcListener, *tuple[HttpListener, ...]]:
    """That of gRPC, and that of HTTP if it has an address."""
    tls = tls_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    limits = CallLimits(
        max_calls_per_connection=settings.max_calls_per_connection,
        # An image slightly above the limit arrives, so that our own error refuses it.
        max_message_bytes=settings.max_image_bytes + _MESSAGE_REST,
        max_receiving_bytes=settings.max_receiving_bytes,
        receive_timeout_s=settings.receive_timeout_s,
    )
    grpc_listener = GrpcListener(
        settings.listen,
        register=partial(register, gateway=gateway),
        limits=limits,
        tls=tls,
        authenticate=authentication.owner,
    )
    if not settings.http_listen:
        return (grpc_listener,)
    # In JSON an image is base64: four characters for three bytes.
    body_bytes = settings.max_image_bytes * 4 // 3 + _MESSAGE_REST
    dialect = Dialect(settings.http_dialect)
    http_listener = HttpListener(
        settings.http_listen,
        partial(make_app, gateway=gateway, metrics=metrics, dialect=dialect),
        replace(limits, max_message_bytes=body_bytes),
        tls=tls,
        authenticate=authentication.owner,
    )
    return grpc_listener, http_listener


if __name__ == "__main__":
    main(GatewaySettings, build)
