"""`glm4v bench profile`: where the time of a load goes."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.host.temporary_folder import TemporaryFolder

if TYPE_CHECKING:
    from bench.peers import Load
    from bench.profile.report import Profile
    from bench.profile.samples import Sampler
    from glm4v.local.cluster import LocalCluster


def profile(
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A checkpoint; else a random one of 138 M weights."),
    ] = None,
    callers: Annotated[int, typer.Option(min=1, help="Concurrent requests.")] = 10,
    requests: Annotated[int, typer.Option(min=2, help="Requests in all.")] = 40,
    prompt: Annotated[int, typer.Option(min=8, help="Prompt tokens besides an image.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, help="Output tokens.")] = 64,
    image: Annotated[
        int, typer.Option(min=0, help="Side of a new image in each request, pixels; 0: none.")
    ] = 448,
    dtype: Annotated[str, typer.Option(help="As of `glm4v up`.")] = "auto",
    weight_dtype: Annotated[str, typer.Option(help="As of `glm4v up`.")] = "auto",
    perf: Annotated[bool, typer.Option(help="Sample what threads do; needs linux-perf.")] = True,
) -> None:
    """Start the system, put a load on it, and print what its processes did, in Markdown.

    For each process: seconds on a core, and seconds that it was ready while others had the cores;
    by kind of work, if Linux's `perf` is installed and may be used. Also what the load would take
    if all its arithmetic ran as fast as the largest matrix products do, measured before and after.
    """
    from bench.peers import Load
    from bench.profile.report import markdown
    from bench.profile.samples import Sampler

    load = Load(prompt, tokens, image, same_image=False, seed=time.time_ns())
    environment = {"GLM4V_DTYPE": dtype, "GLM4V_WEIGHT_DTYPE": weight_dtype}
    with TemporaryFolder("profile") as folder:
        model = model or _medium(folder)
        sampler = Sampler(folder) if perf else None
        found = asyncio.run(_profile(model, load, callers, requests, environment, sampler))
    typer.echo(markdown(found))


def _medium(folder: Path) -> Path:
    """A random checkpoint in `folder`."""
    from bench.machine import SideProcess
    from bench.model import write_medium

    with SideProcess(threads=1) as side:
        side.call(write_medium, folder / "medium")
    return folder / "medium"


async def _profile(
    model: Path,
    load: "Load",
    callers: int,
    requests: int,
    environment: Mapping[str, str],
    sampler: "Sampler | None",
) -> "Profile":
    from bench.machine import SideProcess
    from bench.peers import Ours, measure
    from bench.profile.arithmetic import matrix_rate, request_flop
    from bench.profile.report import Profile
    from bench.profile.watch import Watch
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.host.cpus import usable_cpus
    from glm4v.local.cluster import ClusterSettings, LocalCluster

    spec = Checkpoint.open(model).spec
    flop = request_flop(spec, load.prompt_tokens, load.answer_tokens, image=bool(load.image_side))
    with SideProcess(usable_cpus()) as side:
        before = side.call(matrix_rate)
        async with LocalCluster(ClusterSettings(model, environment=environment)) as cluster:
            server = Ours(cluster.target)
            await measure(server, load, callers, callers, round_number=-1)
            watch = Watch(_processes(cluster), sampler)
            result = await measure(server, load, callers, requests, round_number=0)
            seen = watch.end()
        rate = max(before, side.call(matrix_rate))
    return Profile(load, result, requests, seen, flop, rate)


def _processes(cluster: "LocalCluster") -> dict[str, list[int]]:
    """Process ids by name, those of image decoders apart, and that of the load."""
    from bench.profile.processes import with_children

    names = ("gateway", "vision_worker", "lm_worker", "redis")
    found = {name: with_children(cluster.process(name).pid) for name in names}
    vision, *decoders = found["vision_worker"]
    return {**found, "vision_worker": [vision], "decoders": decoders, "load": [os.getpid()]}
