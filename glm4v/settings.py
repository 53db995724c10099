"""Settings of every process, from variables GLM4V_<NAME>, read once at the edge and frozen."""

import os
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from glm4v.errors import InvalidRequest

_PREFIX = "GLM4V_"


class ServiceSettings(BaseSettings):
    """What every process needs."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    model: Path = Field(description="folder of the checkpoint")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// URL; it may hold a password",
    )
    listen: str = Field(description="host:port or unix:/path to listen on")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_s: float = Field(10.0, gt=0, description="longest time from SIGTERM to the end, seconds")
    lease_s: float = Field(
        10.0, ge=0.2, description="seconds without progress after which a job is taken over"
    )
    retention_s: float = Field(
        600.0, gt=0, description="seconds a finished request can be attached to"
    )


class PictureSettings(ServiceSettings):
    """What those who look at pictures need beside."""

    max_image_bytes: int = Field(20 * 2**20, gt=0, description="largest picture file, bytes")
    max_image_pixels: int = Field(100_000_000, gt=0, description="most pixels of a picture")


class GatewaySettings(PictureSettings):
    """What the gateway needs beside."""

    listen: str = "127.0.0.1:8330"
    max_open_requests: int = Field(
        1024, gt=0, description="accepted requests that have not ended, over all gateways"
    )
    default_deadline_s: float = Field(
        600.0, gt=0, description="deadline of a request that sets none, seconds"
    )
    max_deadline_s: float = Field(3600.0, gt=0, le=3600, description="longest deadline, seconds")


class DeviceSettings(ServiceSettings):
    """What both kinds of worker need beside."""

    device: str = Field("auto", description="auto or cpu")
    dtype: Literal["auto", "float32", "weights16", "bfloat16", "float16"] = Field(
        "auto",
        description="of weights and activations; weights16 keeps weights in 16 bits and computes "
        "in float32, auto is that where it loses nothing, else float32",
    )
    threads: int = Field(0, ge=0, description="arithmetic threads; 0 takes one for each core")
    core_turns: Path | None = Field(
        None, description="file by which workers on the same cores take turns; left out, none do"
    )


class VisionSettings(DeviceSettings, PictureSettings):
    """What a vision worker needs beside."""

    listen: str = "127.0.0.1:8331"


class LmSettings(DeviceSettings):
    """What a language worker needs beside."""

    listen: str = "127.0.0.1:8332"
    tensor_parallel: int = Field(1, ge=1, description="ranks that share the model")
    rank_timeout_s: float = Field(
        30.0, ge=1, description="seconds after which a rank that does not answer ends the group"
    )
    block_size: int = Field(16, ge=1, le=1024, description="rows of a cache block")
    cache_bytes: int = Field(
        0, ge=0, description="memory for the KV cache; 0 takes a share of what is free"
    )
    max_sequences: int = Field(64, gt=0, description="requests decoded together")
    step_tokens: int = Field(
        512, gt=0, description="rows of one step, shared by decodes and prefill chunks"
    )
    step_stretch: float = Field(
        1.6, ge=1, description="how much longer one prefill may make a step with decodes"
    )
    prefix_cache: bool = Field(
        True, description="whether rows of earlier requests with the same beginning are used again"
    )


_S = TypeVar("_S", bound=ServiceSettings)


def read_settings(kind: type[_S]) -> _S:
    """Settings of one process from the environment.

    Raises InvalidRequest with one line: which variable, what it was, what is allowed. A variable of
    our prefix that no process knows is an error too.
    """
    known = {
        _PREFIX + name.upper()
        for settings in (GatewaySettings, VisionSettings, LmSettings)
        for name in settings.model_fields
    } | {_PREFIX + "DEBUG"}
    for variable in sorted(os.environ):
        if variable.upper().startswith(_PREFIX) and variable.upper() not in known:
            raise InvalidRequest(f"{variable}: no such setting")
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        variable = _PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise InvalidRequest(f"{variable}: {first['msg']}") from None
