"""One load from its options to its measurements."""

import asyncio
import itertools
import os
import platform
import shlex
import sys
from collections.abc import Iterable
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
from bench.serve.images import KEPT, ImageFiles
from bench.serve.measurement import Measurement
from bench.serve.request import CLOSED, LoadRequest
from bench.serve.runner import Runner
from bench.serve.trace_file import read_trace
from bench.serve.workload import Mix, until, with_images, workload
from glm4v.errors import InvalidRequest, Unavailable

_REQUESTS = 100
_LIST_S = 10.0
_WARM_UP_IMAGE = 10**9  # no load has as many


@dataclass(frozen=True, slots=True)
class Shape:
    """How requests come.

    Attributes:
        callers: Of a closed loop.
        rate, burstiness: Of an open loop; a rate of None makes a closed one.
        trace: A file that is replayed instead, `speed` times as fast.
        requests: None for 100, or for as many as begin within `duration_s`.
        duration_s: No request begins later; None for no end.
    """

    callers: int
    rate: float | None
    burstiness: float
    trace: Path | None
    speed: float
    requests: int | None
    duration_s: float | None
    warm_up: int
    most_in_flight: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of a load, and those before it that are not counted.

    Attributes:
        requests: Drawn while they are sent, since a closed loop has no number of them.
        number: How many there are; None where only the duration ends it.
    """

    requests: Iterable[LoadRequest]
    number: int | None
    warm_up: list[LoadRequest]
    is_open: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured.

    Attributes:
        interrupted: Requests in flight when Ctrl-C ended the load; None if nothing did.
    """

    measurements: list[Measurement]
    interrupted: int | None


def plan(shape: Shape, mix: Mix) -> Plan:
    """The load. Raises InvalidRequest for options that contradict each other."""
    warm_up = _warm_up_requests(shape.warm_up, mix)
    if shape.trace is not None and shape.rate is not None:
        raise InvalidRequest("--trace has its own arrivals; leave --rate out, or use --speed")
    count = shape.requests or (_REQUESTS if shape.duration_s is None else None)
    if shape.trace is not None:
        timed = with_images(mix, read_trace(shape.trace, shape.speed))
        count = shape.requests
    elif shape.rate is not None:
        timed = workload(mix, arrivals(shape.rate, shape.burstiness, mix.seed))
    else:
        closed = workload(mix, itertools.repeat(CLOSED))
        return Plan(itertools.islice(closed, count), count, warm_up, is_open=False)
    if shape.duration_s is not None:
        timed = until(timed, shape.duration_s)
    requests = list(itertools.islice(timed, count))
    return Plan(requests, len(requests), warm_up, is_open=True)


def _warm_up_requests(count: int, mix: Mix) -> list[LoadRequest]:
    """Others than those of the load, so that what is cached of them helps none; with images."""
    return [
        replace(
            each,
            number=-1 - each.number,
            text=f"Warm up. {each.text}",
            image=_WARM_UP_IMAGE + each.number if mix.image_share else None,
        )
        for each in itertools.islice(workload(mix, itertools.repeat(CLOSED)), count)
    ]


async def run(target: Target, shape: Shape, mix: Mix, planned: Plan) -> Outcome:
    """Send it. Ctrl-C ends it early. Raises InvalidRequest, ConfigurationError, Unavailable."""
    if target.door not in NAMES:
        raise InvalidRequest(f"--door {target.door}: {', '.join(NAMES)} are known")
    if not target.model and target.door in ("openai", "triton"):
        target = await _with_model(target)
    images = ImageFiles(mix.image_size, mix.seed)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if planned.is_open:
            await _draw_first(images, planned, progress)
        async with open_door(target) as door:
            await _warm_up(door, images, planned, target.timeout_s)
            task = progress.add_task("requests", total=planned.number)
            runner = Runner(
                door,
                images,
                lambda _: progress.advance(task),
                most_in_flight=shape.most_in_flight,
                timeout_s=target.timeout_s,
            )
            is_interrupted = await _until_interrupted(runner, shape, planned)
    return Outcome(runner.measurements, runner.in_flight if is_interrupted else None)


async def _draw_first(images: ImageFiles, planned: Plan, progress: Progress) -> None:
    """Draw the images that are kept; they would delay arrivals. Others are drawn when they come."""
    numbers = [each.image for each in planned.requests if each.image is not None]
    first = list(dict.fromkeys(numbers))[:KEPT]
    task = progress.add_task("drawing images", total=len(first), visible=bool(first))
    for number in first:
        await images.file(number)
        progress.advance(task)


async def _warm_up(door: Door, images: ImageFiles, planned: Plan, timeout_s: float) -> None:
    """Raises Unavailable where the first request fails: so would all others."""
    runner = Runner(door, images, lambda _: None, most_in_flight=1, timeout_s=timeout_s)
    await runner.closed_loop(planned.warm_up, callers=1)
    if failed := [each for each in runner.measurements if each.error]:
        raise Unavailable(f"a warm-up request failed: {failed[0].error}: {failed[0].details}")


async def _until_interrupted(runner: Runner, shape: Shape, planned: Plan) -> bool:
    """Send all requests; an interrupt, which asyncio.run turns into a cancellation, ends that."""
    try:
        if planned.is_open:
            await runner.open_loop(planned.requests)
        else:
            await runner.closed_loop(planned.requests, shape.callers, shape.duration_s)
    except asyncio.CancelledError:
        return True
    return False


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
        "trace": "" if shape.trace is None else shape.trace.name,
    }


def title(target: Target, shape: Shape) -> str:
    """A line above a report."""
    kind = f"{shape.callers} callers" if shape.rate is None else f"{shape.rate:g} requests/s"
    kind = kind if shape.trace is None else f"{shape.trace.name}, {shape.speed:g} times as fast"
    return f"{'gRPC' if target.door == GRPC else target.door}, {kind}"
