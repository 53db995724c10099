"""`glm4v bench serve`: what the callers of a running system see under load."""

import asyncio
import json as json_format
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bench.serve import options as opt
from glm4v.cli import options as access_opt
from glm4v.cli.reading import INTERRUPTED
from glm4v.client import DEFAULT_TARGET
from glm4v.errors import InvalidRequest
from glm4v.process.extras import require

if TYPE_CHECKING:
    from bench.serve.doors import Target
    from bench.serve.load import Outcome
    from glm4v.cli.gateway import Access


def serve(
    server: opt.Server = None,
    door: opt.Door = "grpc",
    model: opt.Model = None,
    callers: opt.Callers = 1,
    rate: opt.Rate = None,
    burstiness: opt.Burstiness = None,
    trace: opt.Trace = None,
    speed: opt.Speed = 1.0,
    requests: opt.Requests = None,
    duration: opt.Duration = None,
    warm_up: opt.WarmUp = 1,
    most_in_flight: opt.MostInFlight = 1000,
    timeout: opt.Timeout = 600.0,
    images: opt.Images = 0.0,
    image_size: opt.ImageSize = 1120,
    repeated: opt.Repeated = 0.0,
    words: opt.Words = 32,
    tokens: opt.Tokens = 64,
    seed: opt.Seed = 1,
    goodput: opt.Goodput = None,
    output: opt.Output = None,
    csv: opt.Csv = None,
    plot: opt.Plot = None,
    json: opt.Json = False,
    api_key_file: access_opt.ApiKeyFile = None,
    tls_ca: access_opt.TlsCa = None,
    tls_cert: access_opt.TlsCert = None,
    tls_key: access_opt.TlsKey = None,
    tls_server_name: access_opt.TlsServerName = None,
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
    from bench.serve.goodput import parse_targets
    from bench.serve.workload import Mix
    from glm4v.cli.gateway import Access

    targets = parse_targets(goodput or ())
    access = Access(api_key_file, tls_ca, tls_cert, tls_key, tls_server_name)
    if burstiness is not None and rate is None:
        raise InvalidRequest("--burstiness is of the arrivals of --rate; set both")
    arrivals = (callers, rate, burstiness or 1.0, trace, speed)
    shape = load.Shape(*arrivals, requests, duration, warm_up, most_in_flight)
    mix = Mix(images, image_size, repeated, words, tokens, seed)
    target = _target(server, door, model, timeout, access)
    outcome = asyncio.run(load.run(target, shape, mix, load.plan(shape, mix)))
    report = _Report(targets, json, output, csv, plot)
    report.make(outcome, load.about(target, shape, mix), load.title(target, shape))


def _target(
    server: str | None, door: str, model: str | None, timeout_s: float, access: "Access"
) -> "Target":
    """Where the load goes: an address of gRPC, or the beginning of a URL."""
    from bench.serve.doors import GRPC, Target

    is_grpc = door == GRPC
    address = (
        access_opt.gateway_address(server or DEFAULT_TARGET)
        if is_grpc
        else server or opt.DEFAULT_URL
    )
    return Target(
        door,
        address.removeprefix(access_opt.HTTPS) if is_grpc else address,
        model or "",
        timeout_s,
        access.api_key(),
        access.tls(address),
    )


@dataclass(frozen=True, slots=True)
class _Report:
    """What is shown and kept of a load."""

    targets: dict[str, float]
    json: bool
    output: Path | None
    csv: Path | None
    plot: Path | None

    def make(self, outcome: "Outcome", about: dict[str, Any], title: str) -> None:
        """Show the figures, write the files, and exit with the load's code."""
        from bench.serve.report import append_row, draw, print_report
        from bench.serve.result_file import write_results
        from bench.serve.summary import summarize

        summary = summarize(outcome.measurements, self.targets)
        if self.json:
            shown = {**about, **asdict(summary), "interrupted": outcome.interrupted}
            typer.echo(json_format.dumps(shown))
        else:
            print_report(summary, title)
        # Files last: one that cannot be written must not take the figures with it.
        if self.output is not None:
            write_results(self.output, about, outcome.measurements)
        if self.csv is not None:
            append_row(self.csv, summary, about)
        if self.plot is not None:
            draw(outcome.measurements, title, self.plot)
        if outcome.interrupted is not None:
            left = f"interrupted: {outcome.interrupted} requests in flight are left out"
            typer.echo(left, err=True)
            raise typer.Exit(INTERRUPTED)
        raise typer.Exit(1 if summary.failures or not summary.requests else 0)
