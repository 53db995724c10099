"""The vision worker process: settings → objects → service."""

from glm4v.process.extras import extra

with extra("worker"):
    import anyio.to_thread

    from glm4v.broker import Keys
    from glm4v.broker.blobs import Blobs
    from glm4v.broker.keys import vision_queue
    from glm4v.broker.vision_queue import VisionQueue
    from glm4v.broker.worker_reports import WorkerReporter
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.device import DeviceOptions, open_device
    from glm4v.images import ImageLimits
    from glm4v.process.grpc_listener import GrpcListener
    from glm4v.process.redis_connection import connect
    from glm4v.process.service import Process, main
    from glm4v.process.settings import VisionSettings
    from vision_worker.decoders import Decoders
    from vision_worker.encoder import Encoder
    from vision_worker.metrics import register_metrics, report
    from vision_worker.worker import Worker

_DECODERS = 2


def build(settings: VisionSettings) -> Process:
    """Wire one worker."""
    checkpoint = Checkpoint.open(settings.model)
    device = open_device(
        DeviceOptions.from_settings(settings, is_bfloat16=checkpoint.is_bfloat16(vision=True))
    )
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    decoders = Decoders(limits, checkpoint.spec.vision.image_size, quick=_DECODERS)
    encoder = Encoder(checkpoint, device, decoders, arbiter=device.arbiter(settings.cpu_arbiter))
    connection = connect(settings)
    keys = Keys(settings.namespace)
    queue = VisionQueue(
        connection,
        keys,
        checkpoint.fingerprint,
        lease_s=settings.lease_s,
        result_ttl_s=settings.result_ttl_s,
    )
    worker = Worker(
        queue,
        Blobs(connection, keys),
        encoder,
        fingerprint=checkpoint.fingerprint,
        max_in_flight=_DECODERS + 2,  # one on the device, one being stored
        lease_s=settings.lease_s,
    )

    async def encode() -> None:
        await worker.run(process.stopping)

    async def ready() -> None:
        await queue.ready()
        await encoder.started.wait()

    async def close() -> None:
        await anyio.to_thread.run_sync(encoder.close)  # a thread, so signals are still handled
        await connection.close()

    process = Process(
        ready=ready,
        listeners=[GrpcListener(settings.listen)],
        load=encoder.start,
        tasks=[encode],
        close=close,
    )
    reporter = WorkerReporter(
        connection,
        keys,
        queue=vision_queue(checkpoint.fingerprint),
        consumer=queue.consumer,
        device=device.name,
        description=device.description,
        report=lambda: report(encoder, worker.held_images),
        started=encoder.started,
        stopping=process.stopping,
    )
    process.daemons = [reporter.run]
    register_metrics(process.metrics, encoder, queue.consumer)
    return process


if __name__ == "__main__":
    main(VisionSettings, build)
