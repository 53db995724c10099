"""Settings of every process, read once at start from environment variables (`environment`)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "GLM4V_"
NAMESPACE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"

Seconds = Annotated[float, Field(json_schema_extra={"unit": "seconds"}, allow_inf_nan=False)]
Bytes = Annotated[int, Field(json_schema_extra={"unit": "bytes"})]
Tokens = Annotated[int, Field(json_schema_extra={"unit": "tokens"})]


class ServiceSettings(BaseSettings):
    """Settings of every process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: Path = Field(description="checkpoint folder")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis shared by all processes: one server (redis://, rediss://, "
        "unix:///PATH), Sentinels (redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0) or a node of a "
        "cluster (redis+cluster://, rediss+cluster://); it may contain a password",
    )
    embeddings_redis_url: SecretStr | None = Field(
        None,
        description="Redis of embeddings, in the same forms; unset, they are in that of redis_url",
    )
    redis_username: str = Field(
        "", description="user of both Redis, where their URLs have no credentials"
    )
    redis_password: SecretStr = Field(
        SecretStr(""), description="password of both Redis, where their URLs have no credentials"
    )
    namespace: str = Field(
        "glm4v",
        pattern=NAMESPACE,
        description="prefix of all keys in Redis: deployments that share a Redis need one each; up "
        "to 32 letters, digits, '.', '_' and '-'",
    )
    listen: str = Field(description="address to serve gRPC on: HOST:PORT or unix:/PATH")
    health_listen: str | None = Field(
        None,
        description="additional address for health checks, without TLS: HOST:PORT or unix:/PATH",
    )
    metrics_listen: str | None = Field(
        None,
        description="address at which Prometheus reads /metrics over HTTP, without TLS: HOST:PORT "
        "or unix:/PATH; unset, a gateway serves them beside its HTTP API only",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level of log lines"
    )
    drain_timeout_s: Seconds = Field(10.0, gt=0, description="longest time from SIGTERM to exit")
    lease_s: Seconds = Field(
        10.0, ge=0.2, description="time without progress after which another worker claims a job"
    )
    result_ttl_s: Seconds = Field(
        600.0, gt=0, description="how long a finished request is kept for clients that attach"
    )


class ImageSettings(ServiceSettings):
    """Settings of processes that decode images."""

    max_image_bytes: Bytes = Field(20 * 2**20, gt=0, description="largest image file")
    max_image_pixels: int = Field(
        100_000_000,
        gt=0,
        description="largest image, width times height",
        json_schema_extra={"unit": "pixels"},
    )


class GatewaySettings(ImageSettings):
    """Settings of the gateway."""

    listen: str = "127.0.0.1:8330"
    http_listen: str | None = Field(
        None,
        description="additional address to serve HTTP on: HOST:PORT or unix:/PATH",
    )
    http_dialect: Literal["original", "mindie"] = Field(
        "original",
        description="form of TGI's and vLLM's formats where MindIE's differs: original or mindie; "
        "a request chooses its own with the header Glm4v-Dialect",
    )
    tls_cert: Path | None = Field(
        None,
        description="certificate of the gateway, in PEM, then those of intermediate authorities; "
        "with it calls need TLS; read again when it changes",
    )
    tls_key: Path | None = Field(None, description="private key of tls_cert, in PEM")
    tls_client_ca: Path | None = Field(
        None,
        description="authorities, in PEM, of the certificates that clients then have to present",
    )
    api_keys: Path | None = Field(
        None,
        description="API keys that callers need: a file of `glm4v keys new`, or a folder of such "
        "files, such as a mounted secret; read again when it changes",
    )
    allow_anonymous: bool = Field(
        False,
        description="without api_keys and tls_client_ca: serve anybody who reaches an address "
        "other than loopback",
    )
    max_open_requests: int = Field(
        1024,
        gt=0,
        description="unfinished requests, over all gateways; half of them of one client",
        json_schema_extra={"unit": "requests"},
    )
    max_open_image_bytes: Bytes = Field(
        0,
        ge=0,
        description="image bytes of unfinished requests, over all gateways; 0 takes half of "
        "Redis' maxmemory",
    )
    default_deadline_s: Seconds = Field(
        600.0, gt=0, description="deadline of requests that set none"
    )
    max_deadline_s: Seconds = Field(3600.0, gt=0, le=3600, description="longest deadline")
    max_calls_per_connection: int = Field(
        128,
        gt=0,
        description="concurrent calls on one connection; further calls wait in the client",
        json_schema_extra={"unit": "calls"},
    )
    receive_timeout_s: Seconds = Field(
        60.0, gt=0, description="how long the message of a call may take to arrive"
    )
    max_receiving_bytes: Bytes = Field(
        256 * 2**20,
        gt=0,
        description="memory for messages that are arriving or waiting for a handler",
    )
    stream_keepalive_s: Seconds = Field(
        10.0,
        gt=0,
        description="how long a stream stays silent before it repeats its stage, which keeps "
        "proxies from closing it",
    )


class DeviceSettings(ServiceSettings):
    """Settings of vision and language workers."""

    device: str = Field(
        "auto",
        description="device to compute on: auto, cpu, cuda, npu, or simulated, which hashes and "
        "computes nothing",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype of activations and KV cache; auto is the device's best"
    )
    weight_dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int8-channel"] = Field(
        "auto",
        description="dtype of stored weights; auto is that of activations, or bfloat16 if "
        "GLM4V_DTYPE is auto too and nothing is lost; int8 (CPUs and NPUs) is half of that "
        "again for the language model, whose matrices are rounded, with a scale for every 64 "
        "inputs; int8-channel is the same with one scale for each output",
    )
    threads: int = Field(
        0,
        ge=0,
        description="compute threads; 0 takes one per core of the affinity mask and CPU quota",
        json_schema_extra={"unit": "threads"},
    )
    cpu_arbiter: Path | None = Field(
        None,
        description="lock file of workers on the same cores: images wait for prefills, and decodes "
        "for images; unset, they do not",
    )


class VisionSettings(DeviceSettings, ImageSettings):
    """Settings of a vision worker."""

    listen: str = "127.0.0.1:8331"


class LmSettings(DeviceSettings):
    """Settings of a language worker."""

    listen: str = "127.0.0.1:8332"
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="ranks of the tensor-parallel group",
        json_schema_extra={"unit": "ranks"},
    )
    rank_timeout_s: Seconds = Field(
        30.0, ge=1, description="time after which an unresponsive rank ends the group"
    )
    block_size: Tokens = Field(
        0, ge=0, le=1024, description="tokens per KV cache block; 0 is the device's own size"
    )
    kv_cache_bytes: Bytes = Field(
        0,
        ge=0,
        description="memory for the KV cache of each rank; 0 takes half of what weights leave free",
    )
    host_memory_bytes: Bytes = Field(
        0,
        ge=0,
        description="memory for the weights of all workers on this machine's CPU, and KV caches in "
        "half of what they leave; set by glm4v up; 0 is what is free, for one worker alone",
    )
    host_vision_workers: int = Field(
        0,
        ge=0,
        description="vision workers that share host_memory_bytes; set by glm4v up",
        json_schema_extra={"unit": "processes"},
    )
    host_lm_workers: int = Field(
        1,
        ge=1,
        description="language workers that share host_memory_bytes; set by glm4v up",
        json_schema_extra={"unit": "processes"},
    )
    max_num_seqs: int = Field(
        64,
        gt=0,
        description="largest number of requests in a batch",
        json_schema_extra={"unit": "requests"},
    )
    max_batched_tokens: Tokens = Field(
        512,
        gt=0,
        description="largest number of tokens in one step, decodes and prefill chunks together",
    )
    prefill_slowdown: float = Field(
        1.6,
        ge=1,
        allow_inf_nan=False,
        description="largest slowdown of a decode step caused by one prefill",
        json_schema_extra={"unit": "times"},
    )
    prefix_cache: bool = Field(True, description="enable prefix caching")
    drafts: bool = Field(
        True, description="several tokens a step: what a format forces, and likely ones if it pays"
    )
