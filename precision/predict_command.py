"""`glm4v precision predict`: captions of a folder of images, as a file."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.cli import options as gateway_opt
from glm4v.cli.gateway import Access
from offline import options as opt
from offline.image_folder import GUIDE_QUESTION, images_in
from precision.prediction import Prediction

if TYPE_CHECKING:
    from offline.batch import BatchSize
    from offline.rank_group import Hardware

_CONNECT_S = 10.0
_RETRY_S = 60.0  # gateways that restart are waited for

Source = Callable[[Prediction], Coroutine[Any, Any, None]]


def predict(
    images: Annotated[Path, typer.Argument(help="A folder of images, or an image.")],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Captions by file name, as JSON; those in it are kept."),
    ] = Path("predict_result.json"),
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The checkpoint, computed in this process.",
            show_default="the demo model",
        ),
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            parser=gateway_opt.gateway_address,
            help="Ask this gateway instead; https://HOST:PORT connects with TLS.",
        ),
    ] = None,
    question: opt.Question = GUIDE_QUESTION,
    max_tokens: opt.MaxTokens = 256,
    batch: Annotated[
        int, typer.Option(min=1, help="Images at once, in this process or at the gateway.")
    ] = 4,
    max_input: opt.MaxInput = 2048,
    tensor_parallel: opt.TensorParallel = 1,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    weight_dtype: opt.WeightDtype = "auto",
    threads: opt.Threads = 0,
    api_key_file: gateway_opt.ApiKeyFile = None,
    tls_ca: gateway_opt.TlsCa = None,
    tls_cert: gateway_opt.TlsCert = None,
    tls_key: gateway_opt.TlsKey = None,
) -> None:
    """Ask a question about each image of a folder, and write the answers as captions.

    Answers are greedy. Captions are written as they come: after an interruption the same command
    goes on where it stopped. The exit code is not 0 if an image has got no caption.
    """
    if model is not None and gateway is not None:
        raise typer.BadParameter(
            "--model computes in this process, --gateway asks a running system: give one of them"
        )
    files = images_in(images)
    if gateway is not None:
        access = Access(api_key_file, tls_ca, tls_cert, tls_key)
        source = _gateway(gateway, access, question, max_tokens, batch)
    else:
        from offline.batch import BatchSize
        from offline.rank_group import Hardware

        hardware = Hardware(device, dtype, weight_dtype, threads, tensor_parallel)
        size = BatchSize(min(batch, len(files)), max_input, max_tokens)
        source = _in_process(model or DEMO_MODEL, hardware, size, question)
    _caption(files, out, source)


def _gateway(address: str, access: Access, question: str, max_tokens: int, at_once: int) -> Source:
    from glm4v.client import AsyncClient
    from precision.gateway_captions import caption_by_gateway

    async def work(prediction: Prediction) -> None:
        async with AsyncClient(
            address.removeprefix(gateway_opt.HTTPS),
            retry_timeout_s=_RETRY_S,
            api_key=access.api_key(),
            tls=access.tls(address),
        ) as client:
            await client.connect(_CONNECT_S)
            await caption_by_gateway(client, question, max_tokens, at_once, prediction)

    return work


def _in_process(model: Path, hardware: "Hardware", size: "BatchSize", question: str) -> Source:
    from precision.offline_captions import caption_offline

    async def work(prediction: Prediction) -> None:
        await caption_offline(model, hardware, size, question, prediction)

    return work


def _caption(files: list[Path], out: Path, source: Source) -> None:
    """Caption what is left, with a progress bar, and report."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("captions", total=len(files))
        prediction = Prediction(files, out, lambda: progress.advance(task))
        present = len(files) - len(prediction.left)
        if present:
            typer.echo(
                f"{present} of {len(files)} images have a caption in {out} already", err=True
            )
            progress.advance(task, present)
        if prediction.left:
            asyncio.run(source(prediction))
    typer.echo(f"{len(files) - len(prediction.failures)} of {len(files)} captions in {out}")
    if prediction.failures:
        for name, error in prediction.failures.items():
            typer.echo(f"{name}: {error}", err=True)
        raise typer.Exit(next(iter(prediction.failures.values())).exit_code)
