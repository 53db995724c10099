"""GET /info, in both dialects. What a gateway does not know of its workers is null."""

from typing import Any

from gateway.doors.http.dialect import Dialect
from glm4v.v1 import inference_pb2 as api

_MAX_CHOICES = 16
_MAX_STOPS = 16


def info(model: api.GetModelResponse, dialect: Dialect) -> dict[str, Any]:
    """The description of a model and of the limits of its requests."""
    return _mindie(model) if dialect is Dialect.MINDIE else _original(model)


def _original(model: api.GetModelResponse) -> dict[str, Any]:
    return {
        "model_id": model.name,
        "model_sha": model.fingerprint,
        "model_pipeline_tag": "image-text-to-text",
        "max_concurrent_requests": None,
        "max_best_of": _MAX_CHOICES,
        "max_stop_sequences": _MAX_STOPS,
        "max_input_tokens": model.context_tokens - 1,
        "max_total_tokens": model.context_tokens,
        "validation_workers": None,
        "max_client_batch_size": 1,
        "router": "glm4v-serve",
        "version": model.server_version,
        "sha": None,
        "docker_label": None,
    }


def _mindie(model: api.GetModelResponse) -> dict[str, Any]:
    return {
        "docker_label": None,
        "max_batch_total_tokens": None,
        "max_best_of": 1,
        "max_concurrent_requests": None,
        "max_stop_sequences": None,
        "max_waiting_tokens": None,
        "sha": None,
        "validation_workers": None,
        "version": model.server_version,
        "waiting_served_ratio": None,
        "models": [
            {
                "model_device_type": None,
                "model_dtype": None,
                "model_id": model.name,
                "model_pipeline_tag": "text-generation",
                "model_sha": None,
                "max_total_tokens": model.context_tokens,
            }
        ],
        "max_input_length": model.context_tokens - 1,
    }
