"""What the metrics and the reports of a vision worker are read from."""

from glm4v.internal.v1 import worker_pb2 as pb
from glm4v.telemetry.metrics import Registry
from vision_worker.encoder import Encoder


def report(encoder: Encoder, held: int) -> pb.WorkerReport:
    """What a vision worker is doing; `held` is the number of images it has claimed."""
    return pb.WorkerReport(running=held, done=encoder.images_encoded)


def register_metrics(registry: Registry, encoder: Encoder, consumer: str) -> None:
    """Register the metrics of one worker; `consumer` is its name in the queue's group."""
    registry.info("glm4v_worker_info", "The consumer that claims jobs.", {"consumer": consumer})
    registry.counter(
        "glm4v_vision_images_decoded_total",
        "Image files decoded to pixels.",
        lambda: encoder.images_decoded,
    )
    registry.counter(
        "glm4v_vision_images_encoded_total",
        "Images encoded to embeddings.",
        lambda: encoder.images_encoded,
    )
