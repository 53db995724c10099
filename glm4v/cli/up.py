"""`glm4v up`: the whole system on this machine, until Ctrl-C."""

import asyncio
import os
from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.cli.log import Log
from glm4v.cli.options import unicode_text
from glm4v.cli.reading import INTERRUPTED
from glm4v.errors import Unavailable
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.local.foreground import Foreground
from glm4v.local.instances import Instance, register_instance


class Dtype(StrEnum):
    """As GLM4V_DTYPE."""

    AUTO = "auto"
    FLOAT32 = "float32"
    WEIGHTS16 = "weights16"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class LogLevel(StrEnum):
    """As GLM4V_LOG_LEVEL."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def up(
    model: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the checkpoint.", show_default="the demo model shipped"
        ),
    ] = DEMO_MODEL,
    host: Annotated[
        str,
        typer.Option(
            parser=unicode_text,
            metavar="HOST",
            help="Address of the gateway; 0.0.0.0 lets every machine ask, without any account.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the gateway.")] = 8330,
    vision_workers: Annotated[int, typer.Option(min=0, help="How many.")] = 1,
    lm_workers: Annotated[int, typer.Option(min=0, help="How many.")] = 1,
    tensor_parallel: Annotated[
        int | None,
        typer.Option(min=1, show_default="1", help="Processes that share each language model."),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(min=1, show_default="64", help="Requests a language worker decodes together."),
    ] = None,
    max_open_requests: Annotated[
        int | None,
        typer.Option(min=1, show_default="1024", help="Accepted requests; more are refused."),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="GLM4V_REDIS_URL",
            parser=unicode_text,
            help="A running Redis; else one is started.",
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(show_default="auto", help="Of weights and activations."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keeps requests over a restart; else they are forgotten."),
    ] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(show_default="info", help="Least severe lines of the log.")
    ] = None,
) -> None:
    """Start Redis, workers and a gateway, and keep them running until Ctrl-C.

    Other settings are GLM4V_… variables, which `glm4v settings` lists. An option has precedence
    over its variable.
    """
    options = {
        "GLM4V_TENSOR_PARALLEL": tensor_parallel,
        "GLM4V_MAX_NUM_SEQS": max_num_seqs,
        "GLM4V_MAX_OPEN_REQUESTS": max_open_requests,
        "GLM4V_DTYPE": dtype and dtype.value,
        "GLM4V_LOG_LEVEL": log_level and log_level.value,
    }
    settings = ClusterSettings(
        model,
        host=host,
        port=port,
        vision_workers=vision_workers,
        lm_workers=lm_workers,
        redis_url=redis_url,
        data_dir=data_dir,
        environment={name: str(value) for name, value in options.items() if value is not None},
    )
    with Log() as log:
        if "GLM4V_LISTEN" in os.environ:
            log.show("glm4v", "GLM4V_LISTEN is not used here; --host and --port are")
        foreground = Foreground(settings, log.show)
        asyncio.run(foreground.run(partial(_until_stopped, log)))
    if foreground.signals > 1:
        raise typer.Exit(INTERRUPTED)


async def _until_stopped(log: Log, cluster: LocalCluster) -> None:
    with ExitStack() as stack:
        if cluster.own_redis_url is not None:
            try:
                system = Instance(cluster.target, cluster.own_redis_url)
                stack.enter_context(register_instance(system))
            except Unavailable as error:
                log.show("glm4v", f"`glm4v dead` will not find this Redis: {error}")
        log.ready(f"glm4v is ready on {cluster.target}; Ctrl-C stops it")
        await asyncio.Event().wait()  # a signal cancels this
