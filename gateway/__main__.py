"""The gateway process: settings → objects → service."""

from collections.abc import Sequence

from glm4v.process.extras import extra

with extra("gateway"):
    from grpc import aio

    from gateway.admission.admission import Admission, AdmissionLimits
    from gateway.admission.sampling import SamplingDefaults, read_defaults
    from gateway.doors.grpc_native import InferenceServicer
    from gateway.streaming.reader import Reader
    from gateway.text.tokenizer import Tokenizer
    from glm4v import __version__
    from glm4v.broker import Broker, Connection, Keys
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.images import ImageLimits
    from glm4v.process.call_limits import CallLimits
    from glm4v.process.service import Process, main
    from glm4v.process.settings import GatewaySettings
    from glm4v.v1 import inference_pb2 as api
    from glm4v.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

_SERVICE = api.DESCRIPTOR.services_by_name["InferenceService"].full_name


def build(settings: GatewaySettings) -> Process:
    """Wire one gateway."""
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
    broker = Broker(
        connection,
        Keys(),
        max_open_requests=settings.max_open_requests,
        result_ttl_s=settings.result_ttl_s,
        max_open_image_bytes=settings.max_open_image_bytes,
    )
    servicer = InferenceServicer(
        broker,
        Admission(spec, checkpoint.fingerprint, tokenizer, defaults, limits),
        Reader(
            broker,
            tokenizer,
            fingerprint=checkpoint.fingerprint,
            image_tokens=spec.vision.num_image_tokens,
            silence_s=settings.stream_keepalive_s,
        ),
        describe(checkpoint, defaults, limits.images),
    )

    def register(server: aio.Server) -> Sequence[str]:
        add_InferenceServiceServicer_to_server(servicer, server)
        return [_SERVICE]

    async def drain() -> None:
        await process.stopping.wait()
        broker.stop_reading()

    process = Process(
        ready=broker.ready,
        parts=[drain],
        daemons=[broker.run],
        register=register,
        close=connection.close,
        limits=CallLimits(
            max_calls_per_connection=settings.max_calls_per_connection,
            # An image somewhat above the limit still arrives, so that our message refuses it.
            max_message_bytes=settings.max_image_bytes + 8 * 2**20,
            max_receiving_bytes=settings.max_receiving_bytes,
            receive_timeout_s=settings.receive_timeout_s,
        ),
    )
    return process


def describe(
    checkpoint: Checkpoint, defaults: SamplingDefaults, images: ImageLimits
) -> api.GetModelResponse:
    """What GetModel answers."""
    spec = checkpoint.spec
    return api.GetModelResponse(
        name=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        context_tokens=spec.context_tokens,
        image_size=spec.vision.image_size,
        image_tokens=spec.vision.num_image_tokens,
        eos_token_ids=spec.eos_ids,
        default_sampling=defaults.params,
        max_image_bytes=images.max_bytes,
        max_image_pixels=images.max_pixels,
        server_version=__version__,
    )


if __name__ == "__main__":
    main(GatewaySettings, build)
