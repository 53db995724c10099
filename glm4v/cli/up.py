"""`glm4v up`: the whole system on this machine, until Ctrl-C."""

import asyncio
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from glm4v.cli.log import Log
from glm4v.cli.reading import INTERRUPTED
from glm4v.demo import DEMO_MODEL
from glm4v.errors import Unavailable
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.local.foreground import Foreground
from glm4v.local.run_files import RunningSystem, announced


def up(
    model: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the checkpoint.", show_default="the demo model shipped"
        ),
    ] = DEMO_MODEL,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the gateway.")] = 8330,
    vision_workers: Annotated[int, typer.Option(min=0, help="How many.")] = 1,
    lm_workers: Annotated[int, typer.Option(min=0, help="How many.")] = 1,
    redis_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="GLM4V_REDIS_URL", help="A running Redis; else one is started."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, weights16, bfloat16 or float16.")
    ] = "auto",
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keeps requests over a restart; else they are forgotten."),
    ] = None,
) -> None:
    """Start Redis, workers and a gateway, and keep them running until Ctrl-C.

    More settings are read from GLM4V_… variables.
    """
    settings = ClusterSettings(
        model,
        port=port,
        vision_workers=vision_workers,
        lm_workers=lm_workers,
        redis_url=redis_url,
        dtype=dtype,
        data_dir=data_dir,
    )
    with Log() as log:
        foreground = Foreground(settings, log.show)
        asyncio.run(foreground.run(partial(_until_stopped, log)))
    if foreground.signals > 1:
        raise typer.Exit(INTERRUPTED)


async def _until_stopped(log: Log, cluster: LocalCluster) -> None:
    with ExitStack() as stack:
        if cluster.own_redis_url is not None:
            try:
                system = RunningSystem(cluster.target, cluster.own_redis_url)
                stack.enter_context(announced(system))
            except Unavailable as error:
                log.show("glm4v", f"`glm4v dead` will not find this Redis: {error}")
        log.ready(f"glm4v is ready on {cluster.target}; Ctrl-C stops it")
        await asyncio.Event().wait()  # a signal cancels this
