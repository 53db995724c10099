"""`glm4v up`: runs the whole system on this machine until Ctrl-C."""

import asyncio
import os
from contextlib import ExitStack
from functools import partial

import typer

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.cli import up_options as opt
from glm4v.cli.log import Log
from glm4v.cli.reading import INTERRUPTED
from glm4v.errors import Unavailable
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.local.foreground import Foreground
from glm4v.local.instances import Instance, register_instance


def up(
    model: opt.Model = DEMO_MODEL,
    host: opt.Host = "127.0.0.1",
    port: opt.Port = 8330,
    http_port: opt.HttpPort = 8000,
    vision_workers: opt.VisionWorkers = 1,
    lm_workers: opt.LmWorkers = 1,
    tensor_parallel: opt.TensorParallel = None,
    max_num_seqs: opt.MaxNumSeqs = None,
    max_open_requests: opt.MaxOpenRequests = None,
    redis_url: opt.RedisUrl = None,
    namespace: opt.Namespace = None,
    dtype: opt.DtypeName = None,
    weight_dtype: opt.WeightDtypeName = None,
    data_dir: opt.DataDir = None,
    log_level: opt.LogLevelName = None,
) -> None:
    """Start Redis, workers and a gateway, and keep them running until Ctrl-C.

    `glm4v settings` lists the GLM4V_… variables for all other settings. An option overrides its
    variable.
    """
    options = {
        "GLM4V_TENSOR_PARALLEL": tensor_parallel,
        "GLM4V_MAX_NUM_SEQS": max_num_seqs,
        "GLM4V_MAX_OPEN_REQUESTS": max_open_requests,
        "GLM4V_NAMESPACE": namespace,
        "GLM4V_DTYPE": dtype and dtype.value,
        "GLM4V_WEIGHT_DTYPE": weight_dtype and weight_dtype.value,
        "GLM4V_LOG_LEVEL": log_level and log_level.value,
    }
    settings = ClusterSettings(
        model,
        host=host,
        port=port,
        http_port=http_port or None,
        vision_workers=vision_workers,
        lm_workers=lm_workers,
        redis_url=redis_url,
        data_dir=data_dir,
        environment={name: str(value) for name, value in options.items() if value is not None},
    )
    with Log() as log:
        if "GLM4V_LISTEN" in os.environ:
            log.show("glm4v", "GLM4V_LISTEN is ignored; use --host and --port")
        if "GLM4V_HTTP_LISTEN" in os.environ:
            log.show("glm4v", "GLM4V_HTTP_LISTEN is ignored; use --host and --http-port")
        foreground = Foreground(settings, log.show)
        asyncio.run(foreground.run(partial(_until_stopped, log)))
    if foreground.signals > 1:
        raise typer.Exit(INTERRUPTED)


async def _until_stopped(log: Log, cluster: LocalCluster) -> None:
    with ExitStack() as stack:
        if cluster.own_redis_url is not None:
            try:
                system = Instance(cluster.target, cluster.own_redis_url, cluster.namespace)
                stack.enter_context(register_instance(system))
            except Unavailable as error:
                log.show("glm4v", f"`glm4v dead` cannot find this Redis: {error}")
        served = " and ".join(filter(None, [cluster.target, cluster.http_url]))
        log.ready(f"glm4v is ready on {served}; press Ctrl-C to stop")
        await asyncio.Event().wait()  # a signal cancels this
