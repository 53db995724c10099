"""The gateway process: settings → objects → service."""

from functools import partial

from glm4v.process.extras import extra

with extra("gateway"):
    from gateway.admission.admission import Admission, AdmissionLimits
    from gateway.admission.sampling import read_defaults
    from gateway.doors.grpc_native import register
    from gateway.facade import Gateway, describe
    from gateway.metrics import register_metrics
    from gateway.streaming.follow import RequestFollower
    from gateway.text.tokenizer import Tokenizer
    from glm4v.broker import Broker, Connection, Keys
    from glm4v.broker.queue_lengths import queue_lengths
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.host.allocator import limit_arenas
    from glm4v.images import ImageLimits
    from glm4v.process.call_limits import CallLimits
    from glm4v.process.grpc_listener import GrpcListener
    from glm4v.process.service import Process, main
    from glm4v.process.settings import GatewaySettings
    from glm4v.process.tls import tls_files


def build(settings: GatewaySettings) -> Process:
    """Wire one gateway."""
    limit_arenas()
    checkpoint = Checkpoint.open(settings.model)
    spec = checkpoint.spec
    tokenizer = Tokenizer.read(settings.model, spec)
    defaults = read_defaults(settings.model)
    limits = AdmissionLimits(
        ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
        default_deadline_s=settings.default_deadline_s,
        max_deadline_s=settings.max_deadline_s,
    )
    connection = Connection(settings.redis_url.get_secret_value())
    keys = Keys(settings.namespace)
    broker = Broker(
        connection,
        keys,
        max_open_requests=settings.max_open_requests,
        result_ttl_s=settings.result_ttl_s,
        max_open_image_bytes=settings.max_open_image_bytes,
    )
    gateway = Gateway(
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

    async def drain() -> None:
        await process.stopping.wait()
        broker.stop_reading()

    listener = GrpcListener(
        settings.listen,
        register=partial(register, gateway=gateway),
        limits=CallLimits(
            max_calls_per_connection=settings.max_calls_per_connection,
            # An image slightly above the limit arrives, so that our own error refuses it.
            max_message_bytes=settings.max_image_bytes + 8 * 2**20,
            max_receiving_bytes=settings.max_receiving_bytes,
            receive_timeout_s=settings.receive_timeout_s,
        ),
        tls=tls_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca),
    )
    process = Process(
        ready=partial(broker.ready, checkpoint.fingerprint),
        listeners=[listener],
        tasks=[drain],
        daemons=[broker.run],
        close=connection.close,
    )
    lengths = partial(queue_lengths, connection, keys, checkpoint.fingerprint)
    register_metrics(process.metrics, listener, lengths)
    return process


if __name__ == "__main__":
    main(GatewaySettings, build)
