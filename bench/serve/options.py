"""Options of `glm4v bench serve`."""

from pathlib import Path
from typing import Annotated

import typer

from glm4v.client import DEFAULT_TARGET

DEFAULT_URL = "http://127.0.0.1:8000"  # of `glm4v up`
_LOAD, _MIX, _REPORT = "Load", "Requests", "Report"

Server = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT (https://HOST:PORT with TLS) of gRPC, else a URL.",
        show_default=f"{DEFAULT_TARGET}, else {DEFAULT_URL}",
    ),
]
Door = Annotated[
    str, typer.Option(help="grpc, openai, mindie, tgi, triton or vllm (all but one: HTTP).")
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Over HTTP. Default: what the server lists.")
]

Callers = Annotated[int, typer.Option(min=1, rich_help_panel=_LOAD, help="Of a closed loop.")]
Rate = Annotated[
    float | None,
    typer.Option(min=0.001, rich_help_panel=_LOAD, help="Requests/s of an open loop instead."),
]
Burstiness = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        rich_help_panel=_LOAD,
        help="Of --rate. 1: Poisson arrivals; below: bursts.",
        show_default="1",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=_LOAD, help="Replay a trace (JSON lines)."),
]
Speed = Annotated[float, typer.Option(min=0.001, rich_help_panel=_LOAD, help="Of the replay.")]
Requests = Annotated[
    int | None,
    typer.Option(min=1, rich_help_panel=_LOAD, help="Default: 100, or those of --duration."),
]
Duration = Annotated[
    float | None,
    typer.Option(min=0.1, rich_help_panel=_LOAD, help="Seconds in which requests begin."),
]
WarmUp = Annotated[
    int, typer.Option(min=0, rich_help_panel=_LOAD, help="Requests before, not counted.")
]
MostInFlight = Annotated[
    int, typer.Option(min=1, rich_help_panel=_LOAD, help="Further requests wait.")
]
Timeout = Annotated[
    float, typer.Option(min=0.1, rich_help_panel=_LOAD, help="Seconds for one request.")
]

Images = Annotated[
    float, typer.Option(min=0, max=1, rich_help_panel=_MIX, help="Share of requests with an image.")
]
ImageSize = Annotated[
    int, typer.Option(min=16, max=8192, rich_help_panel=_MIX, help="Its side in pixels.")
]
Repeated = Annotated[
    float, typer.Option(min=0, max=1, rich_help_panel=_MIX, help="Share of images sent before.")
]
Words = Annotated[
    int, typer.Option(min=1, rich_help_panel=_MIX, help="Of a question; about its tokens.")
]
Tokens = Annotated[
    int, typer.Option(min=1, rich_help_panel=_MIX, help="Of an answer, if not a trace's.")
]
Seed = Annotated[
    int, typer.Option(min=0, rich_help_panel=_MIX, help="Of arrivals, texts and images.")
]

Goodput = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC:MS",
        rich_help_panel=_REPORT,
        help="A target for ttft, tpot or e2el; may be repeated.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=_REPORT, help="Every request; see compare."),
]
Csv = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=_REPORT, help="Append a row of figures."),
]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", rich_help_panel=_REPORT, help="Write a PNG.")
]
Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=_REPORT, help="Print one JSON object.")
]
