"""One load from its options to its measurements."""

import asyncio
import itertools
import os
import platform
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress

import glm4v
from bench.revision import revision
from bench.serve.arrivals import arrivals
from bench.serve.doors import GRPC, NAMES, Door, Target, open_door, open_http
from bench.serve.images import ImageFiles
from bench.serve.measurement import Measurement
from bench.serve.request import CLOSED, LoadRequest
from bench.serve.runner import Runner
from bench.serve.trace_file import read_trace
from bench.serve.workload import Mix, until, workload
from glm4v.errors import InvalidRequest, Unavailable

_REQUESTS = 100
_LIST_S = 10.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How requests come.

    Attributes:
        callers: Of a closed loop.
        rate, burstiness: Of an open loop; a rate of None makes a closed one.
        requests: None for 100, or for as many as arrive within `duration_s`.
        duration_s: No request begins later; None for no end.
    """

    callers: int
    rate: float | None
    burstiness: float
    requests: int | None
    duration_s: float | None
    warm_up: int
    most_in_flight: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of a load, and those before it that are not counted."""

    requests: list[LoadRequest]
    warm_up: list[LoadRequest]
    is_open: bool


def plan(shape: Shape, mix: Mix, trace: tuple[Path, float] | None) -> Plan:
    """All requests, drawn before the load begins. Raises InvalidRequest for what has no sense."""
    # Others than those of the load, whose beginnings and images may be cached afterwards.
    before = workload(mix, itertools.repeat(CLOSED))
    warm_up = [
        LoadRequest(-1 - each.number, CLOSED, f"Warm up. {each.text}", None, mix.max_tokens)
        for each in itertools.islice(before, shape.warm_up)
    ]
    if trace is not None:
        if shape.rate is not None:
            raise InvalidRequest("--trace has its own arrivals; leave --rate out, or use --speed")
        read = read_trace(*trace)
        kept = until(read, shape.duration_s) if shape.duration_s else iter(read)
        return Plan(list(itertools.islice(kept, shape.requests)), warm_up, is_open=True)
    if shape.rate is None:
        closed = workload(mix, itertools.repeat(CLOSED, shape.requests or _REQUESTS))
        return Plan(list(closed), warm_up, is_open=False)
    drawn = workload(mix, arrivals(shape.rate, shape.burstiness, mix.seed))
    if shape.duration_s is not None:
        drawn = until(drawn, shape.duration_s)
    count = shape.requests or (_REQUESTS if shape.duration_s is None else None)
    return Plan(list(itertools.islice(drawn, count)), warm_up, is_open=True)


async def run(
    target: Target, shape: Shape, planned: Plan, image_size: int, seed: int
) -> list[Measurement]:
    """Send it. Ctrl-C ends it early. Raises InvalidRequest, ConfigurationError, Unavailable."""
    if target.door not in NAMES:
        raise InvalidRequest(f"--door {target.door}: {', '.join(NAMES)} are known")
    if not target.model and target.door in ("openai", "triton"):
        target = await _with_model(target)
    images = ImageFiles(image_size, seed)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        shown = {each.image for each in planned.requests} - {None}
        drawing = progress.add_task("drawing images", total=len(shown), visible=bool(shown))
        for image in shown:
            assert image is not None
            images.file(image)
            progress.advance(drawing)
        async with open_door(target) as door:
            await _warm_up(door, images, planned, target.timeout_s)
            task = progress.add_task("requests", total=len(planned.requests))
            runner = Runner(
                door,
                images,
                lambda _: progress.advance(task),
                most_in_flight=shape.most_in_flight,
                timeout_s=target.timeout_s,
            )
            await _until_interrupted(runner, shape, planned)
    return runner.measurements


async def _warm_up(door: Door, images: ImageFiles, planned: Plan, timeout_s: float) -> None:
    """Raises Unavailable where the first request fails: so would all others."""
    runner = Runner(door, images, lambda _: None, most_in_flight=1, timeout_s=timeout_s)
    await runner.closed_loop(planned.warm_up, callers=1)
    if failed := [each for each in runner.measurements if each.error]:
        raise Unavailable(f"a warm-up request failed: {failed[0].error}: {failed[0].details}")


async def _until_interrupted(runner: Runner, shape: Shape, planned: Plan) -> None:
    """Send all requests; an interrupt, which asyncio.run turns into a cancellation, ends that."""
    with suppress(asyncio.CancelledError):
        if planned.is_open:
            await runner.open_loop(planned.requests)
        else:
            await runner.closed_loop(planned.requests, shape.callers, shape.duration_s)


async def _with_model(target: Target) -> Target:
    """With the first model that the server lists."""
    async with open_http(target) as client:
        try:
            response = await client.get("/v1/models", timeout=_LIST_S)
            name = response.raise_for_status().json()["data"][0]["id"]
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise Unavailable(
                f"{target.address} lists no model ({error}); name it with --model"
            ) from None
    return replace(target, model=name)


def about(target: Target, shape: Shape, mix: Mix) -> dict[str, Any]:
    """What was measured, and where."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["glm4v", *sys.argv[1:]]),
        "door": target.door,
        "version": glm4v.__version__,
        "revision": revision(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load_average": round(os.getloadavg()[0], 2),
        **asdict(shape),
        **asdict(mix),
    }


def title(target: Target, shape: Shape) -> str:
    """A line above a report."""
    kind = f"{shape.callers} callers" if shape.rate is None else f"{shape.rate:g} requests/s"
    name = "gRPC" if target.door == GRPC else target.door
    return f"{name}, {kind}"
