"""Options of `glm4v up`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from glm4v.cli.options import unicode_text


class Dtype(StrEnum):
    """As GLM4V_DTYPE."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class WeightDtype(StrEnum):
    """As GLM4V_WEIGHT_DTYPE."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT8_CHANNEL = "int8-channel"


class LogLevel(StrEnum):
    """As GLM4V_LOG_LEVEL."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Model = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Folder of the checkpoint.", show_default="the demo model shipped"
    ),
]
Host = Annotated[
    str,
    typer.Option(
        parser=unicode_text,
        metavar="HOST",
        help="Address of the gateway; 0.0.0.0 serves the network, which needs API keys "
        "(GLM4V_API_KEYS).",
    ),
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway, for gRPC.")]
HttpPort = Annotated[
    int, typer.Option(min=0, max=65535, help="Port of the gateway for HTTP; 0 serves gRPC alone.")
]
VisionWorkers = Annotated[int, typer.Option(min=0, help="Number of vision workers.")]
LmWorkers = Annotated[int, typer.Option(min=0, help="Number of language workers.")]
TensorParallel = Annotated[
    int | None,
    typer.Option(min=1, show_default="1", help="Processes that share each language model."),
]
MaxNumSeqs = Annotated[
    int | None,
    typer.Option(min=1, show_default="64", help="Maximum batch size of a language worker."),
]
MaxOpenRequests = Annotated[
    int | None,
    typer.Option(min=1, show_default="1024", help="Accepted requests; more are rejected."),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="glm4v",
        help="Prefix of all keys in Redis; deployments that share a Redis need one each.",
    ),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="GLM4V_REDIS_URL",
        parser=unicode_text,
        help="A running Redis; by default one is started.",
    ),
]
DtypeName = Annotated[
    Dtype | None,
    typer.Option("--dtype", show_default="auto", help="Type of activations and KV cache."),
]
WeightDtypeName = Annotated[
    WeightDtype | None,
    typer.Option("--weight-dtype", show_default="auto", help="Type of stored weights."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keeps requests across restarts; by default they are lost."),
]
LogLevelName = Annotated[
    LogLevel | None,
    typer.Option("--log-level", show_default="info", help="Least severe messages to log."),
]
