"""Settings of every process, from variables GLM4V_<NAME>, read once at the edge and frozen."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from glm4v.errors import ConfigurationError
from glm4v.process.service_links import is_service_link

PREFIX = "GLM4V_"

Seconds = Annotated[float, Field(json_schema_extra={"unit": "seconds"}, allow_inf_nan=False)]
Bytes = Annotated[int, Field(json_schema_extra={"unit": "bytes"})]
Tokens = Annotated[int, Field(json_schema_extra={"unit": "tokens"})]


class ServiceSettings(BaseSettings):
    """What every process needs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: Path = Field(description="folder of the checkpoint")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="the Redis that all processes share: one server (redis://, rediss://, "
        "unix:///PATH), Sentinels (redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0) or a node of a "
        "cluster (redis+cluster://, rediss+cluster://); it may hold a password",
    )
    listen: str = Field(description="address to serve gRPC on: HOST:PORT or unix:/PATH")
    health_listen: str | None = Field(
        None,
        description="address to serve health on, and nothing else, besides that of all calls: "
        "HOST:PORT or unix:/PATH",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe messages that are logged"
    )
    drain_timeout_s: Seconds = Field(10.0, gt=0, description="longest time from SIGTERM to the end")
    lease_s: Seconds = Field(
        10.0, ge=0.2, description="time without progress after which a job is taken over"
    )
    result_ttl_s: Seconds = Field(
        600.0, gt=0, description="how long a finished request can be attached to"
    )


class ImageSettings(ServiceSettings):
    """What those who look at images need beside."""

    max_image_bytes: Bytes = Field(20 * 2**20, gt=0, description="largest image file")
    max_image_pixels: int = Field(
        100_000_000,
        gt=0,
        description="largest image, width times height",
        json_schema_extra={"unit": "pixels"},
    )


class GatewaySettings(ImageSettings):
    """What the gateway needs beside."""

    listen: str = "127.0.0.1:8330"
    max_open_requests: int = Field(
        1024,
        gt=0,
        description="accepted requests that have not ended, over all gateways",
        json_schema_extra={"unit": "requests"},
    )
    max_open_image_bytes: Bytes = Field(
        0,
        ge=0,
        description="images of accepted requests that have not ended, over all gateways; "
        "0 takes half of Redis' maxmemory",
    )
    default_deadline_s: Seconds = Field(
        600.0, gt=0, description="deadline of a request that sets none"
    )
    max_deadline_s: Seconds = Field(3600.0, gt=0, le=3600, description="longest deadline")
    max_calls_per_connection: int = Field(
        512,
        gt=0,
        description="calls under way on one connection; more wait at their client",
        json_schema_extra={"unit": "calls"},
    )
    message_s: Seconds = Field(
        60.0, gt=0, description="how long a call's message may take to arrive"
    )
    max_receiving_bytes: Bytes = Field(
        256 * 2**20, gt=0, description="messages that arrive or wait to be handled, together"
    )
    silence_s: Seconds = Field(
        10.0,
        gt=0,
        description="without an event, after which a stream repeats its stage, so that proxies "
        "keep it open",
    )


class DeviceSettings(ServiceSettings):
    """What both kinds of worker need beside."""

    device: str = Field("auto", description="device to compute on: auto or cpu")
    dtype: Literal["auto", "float32", "weights16", "bfloat16", "float16"] = Field(
        "auto",
        description="of weights and activations; weights16 keeps weights in 16 bits and computes "
        "in float32, auto is that where it loses nothing, else float32",
    )
    threads: int = Field(
        0,
        ge=0,
        description="arithmetic threads; 0 takes one for each core of the affinity and CPU quota",
        json_schema_extra={"unit": "threads"},
    )
    cpu_arbiter: Path | None = Field(
        None, description="file by which workers on the same cores take turns; left out, none do"
    )


class VisionSettings(DeviceSettings, ImageSettings):
    """What a vision worker needs beside."""

    listen: str = "127.0.0.1:8331"


class LmSettings(DeviceSettings):
    """What a language worker needs beside."""

    listen: str = "127.0.0.1:8332"
    tensor_parallel: int = Field(
        1, ge=1, description="ranks that share the model", json_schema_extra={"unit": "ranks"}
    )
    rank_timeout_s: Seconds = Field(
        30.0, ge=1, description="time after which a rank that does not answer ends the group"
    )
    block_size: Tokens = Field(16, ge=1, le=1024, description="tokens of a KV cache block")
    kv_cache_bytes: Bytes = Field(
        0, ge=0, description="memory for the KV cache; 0 takes a share of what is free"
    )
    max_num_seqs: int = Field(
        64,
        gt=0,
        description="requests that are decoded together",
        json_schema_extra={"unit": "requests"},
    )
    max_batched_tokens: Tokens = Field(
        512, gt=0, description="tokens of one step, shared by decodes and prefill chunks"
    )
    prefill_slowdown: float = Field(
        1.6,
        ge=1,
        allow_inf_nan=False,
        description="how much longer one prefill may make a step with decodes",
        json_schema_extra={"unit": "times"},
    )
    prefix_cache: bool = Field(
        True, description="whether the KV cache of equal beginnings of prompts is used again"
    )


PROCESSES: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "vision worker": VisionSettings,
    "language worker": LmSettings,
}
# Variables of our prefix that are read elsewhere; every process lets them pass.
OTHER_VARIABLES = {
    "GLM4V_DEBUG": "1 shows where an unexpected error arose",
    "GLM4V_DEMO_CACHE": "folder in which the recipe of the demo model keeps what it fetches",
}
# What people write who know other servers.
_OTHER_NAMES = {"PORT": "LISTEN", "HOST": "LISTEN", "ADDRESS": "LISTEN", "BIND": "LISTEN"}

_S = TypeVar("_S", bound=ServiceSettings)


def read_settings(kind: type[_S], overrides: Mapping[str, str] | None = None) -> _S:
    """Settings of one process from its environment, in which `overrides` are put first.

    Raises ConfigurationError with one line: which variable, what it was, what is allowed. A
    variable of our prefix that no process knows is an error too, unless the platform has set it.
    """
    _check_names({**os.environ, **(overrides or {})})
    fields = {variable_of(name): name for name in kind.model_fields}
    values: dict[str, Any] = {fields[k]: v for k, v in (overrides or {}).items() if k in fields}
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "missing":
            reason = f"is not set; it is the {kind.model_fields[name].description}"
        else:
            reason = f"is {first['input']!r}: {first['msg']}"
        raise ConfigurationError(f"{variable_of(name)} {reason}") from None


def variable_of(name: str) -> str:
    """The variable of a setting."""
    return PREFIX + name.upper()


def _check_names(environment: Mapping[str, str]) -> None:
    known = {variable_of(name) for kind in PROCESSES.values() for name in kind.model_fields}
    for variable in sorted(environment):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in known or name in OTHER_VARIABLES:
            continue
        if not is_service_link(variable, environment):
            hint = _nearest(name.removeprefix(PREFIX), known)
            raise ConfigurationError(
                f"{variable}: no such setting{hint} (glm4v settings lists all)"
            )


def _nearest(word: str, known: set[str]) -> str:
    names = [name.removeprefix(PREFIX) for name in known]
    close = [_OTHER_NAMES[word]] if word in _OTHER_NAMES else get_close_matches(word, names, 1)
    return f"; did you mean {PREFIX}{close[0]}?" if close else ""
