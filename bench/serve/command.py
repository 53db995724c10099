"""`glm4v bench serve`: what the callers of a running system see under load."""

import asyncio
import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from glm4v.cli import options as opt
from glm4v.cli.reading import INTERRUPTED
from glm4v.client import DEFAULT_TARGET
from glm4v.errors import InvalidRequest
from glm4v.process.extras import require

_DEFAULT_URL = "http://127.0.0.1:8000"  # of `glm4v up`
_LOAD, _MIX, _REPORT = "Load", "Requests", "Report"


def serve(
    server: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT (https://HOST:PORT with TLS) of gRPC, else a URL.",
            show_default=f"{DEFAULT_TARGET}, else {_DEFAULT_URL}",
        ),
    ] = None,
    door: Annotated[
        str, typer.Option(help="grpc, openai, mindie, tgi, triton or vllm (all but one: HTTP).")
    ] = "grpc",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Over HTTP. Default: what the server lists.")
    ] = None,
    callers: Annotated[
        int, typer.Option(min=1, rich_help_panel=_LOAD, help="Of a closed loop.")
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, rich_help_panel=_LOAD, help="Requests/s of an open loop instead."),
    ] = None,
    burstiness: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            rich_help_panel=_LOAD,
            help="Of --rate. 1: Poisson arrivals; below: bursts.",
            show_default="1",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_LOAD, help="Replay a trace (JSON lines)."),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, rich_help_panel=_LOAD, help="Of the replay.")
    ] = 1.0,
    requests: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_LOAD, help="Default: 100, or those of --duration."),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(min=0.1, rich_help_panel=_LOAD, help="Seconds in which requests begin."),
    ] = None,
    warm_up: Annotated[
        int, typer.Option(min=0, rich_help_panel=_LOAD, help="Requests before, not counted.")
    ] = 1,
    most_in_flight: Annotated[
        int, typer.Option(min=1, rich_help_panel=_LOAD, help="Further requests wait.")
    ] = 1000,
    timeout: Annotated[
        float, typer.Option(min=0.1, rich_help_panel=_LOAD, help="Seconds for one request.")
    ] = 600.0,
    images: Annotated[
        float,
        typer.Option(min=0, max=1, rich_help_panel=_MIX, help="Share of requests with an image."),
    ] = 0.0,
    image_size: Annotated[
        int, typer.Option(min=16, max=8192, rich_help_panel=_MIX, help="Its side in pixels.")
    ] = 1120,
    repeated: Annotated[
        float,
        typer.Option(min=0, max=1, rich_help_panel=_MIX, help="Share of images sent before."),
    ] = 0.0,
    words: Annotated[
        int, typer.Option(min=1, rich_help_panel=_MIX, help="Of a question; about its tokens.")
    ] = 32,
    tokens: Annotated[
        int, typer.Option(min=1, rich_help_panel=_MIX, help="Of an answer, if not a trace's.")
    ] = 64,
    seed: Annotated[
        int, typer.Option(min=0, rich_help_panel=_MIX, help="Of arrivals, texts and images.")
    ] = 1,
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC:MS",
            rich_help_panel=_REPORT,
            help="A target for ttft, tpot or e2el; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_REPORT, help="Every request; see compare."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_REPORT, help="Append a row of figures."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_REPORT, help="Write a PNG."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", rich_help_panel=_REPORT, help="Print one JSON object.")
    ] = False,
    api_key_file: opt.ApiKeyFile = None,
    tls_ca: opt.TlsCa = None,
    tls_cert: opt.TlsCert = None,
    tls_key: opt.TlsKey = None,
    tls_server_name: opt.TlsServerName = None,
) -> None:
    """Time to first token, inter-token and end-to-end latency, and goodput of a running system.

    In an open loop (--rate, --trace) requests begin when they arrive, whether others have ended or
    not, and latency counts from the arrival. In a closed loop each of --callers asks again when it
    has its answer. Ctrl-C ends the load, reports what has ended, and exits with
    130. Exit code 1: a request failed.
    """
    for package in ("httpx", "numpy", *(["matplotlib"] if plot else [])):
        require(package, "bench")
    from bench.serve import load
    from bench.serve.doors import Target
    from bench.serve.goodput import parse_targets
    from bench.serve.report import append_row, draw, print_report
    from bench.serve.result_file import write_results
    from bench.serve.summary import summarize
    from bench.serve.workload import Mix
    from glm4v.cli.gateway import Access

    targets = parse_targets(goodput or ())
    access = Access(api_key_file, tls_ca, tls_cert, tls_key, tls_server_name)
    if burstiness is not None and rate is None:
        raise InvalidRequest("--burstiness is of the arrivals of --rate; set both")
    shape = load.Shape(
        callers,
        rate,
        1.0 if burstiness is None else burstiness,
        trace,
        speed,
        requests,
        duration,
        warm_up,
        most_in_flight,
    )
    mix = Mix(images, image_size, repeated, words, tokens, seed)
    is_grpc = door == "grpc"
    address = opt.gateway_address(server or DEFAULT_TARGET) if is_grpc else server or _DEFAULT_URL
    target = Target(
        door,
        address.removeprefix(opt.HTTPS) if is_grpc else address,
        model or "",
        timeout,
        access.api_key(),
        access.tls(address),
    )
    outcome = asyncio.run(load.run(target, shape, mix, load.plan(shape, mix)))
    measurements = outcome.measurements
    summary = summarize(measurements, targets)
    about = load.about(target, shape, mix)
    if json:
        shown = {**about, **asdict(summary), "interrupted": outcome.interrupted}
        typer.echo(json_format.dumps(shown))
    else:
        print_report(summary, load.title(target, shape))
    # Files last: one that cannot be written must not take the figures with it.
    if output is not None:
        write_results(output, about, measurements)
    if csv is not None:
        append_row(csv, summary, about)
    if plot is not None:
        draw(measurements, load.title(target, shape), plot)
    if outcome.interrupted is not None:
        typer.echo(f"interrupted: {outcome.interrupted} requests in flight are left out", err=True)
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(1 if summary.failures or not summary.requests else 0)
