"""`glm4v generate`: one response from vision and language in this process, without a server."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm4v.cli.answer import answer_object, print_object, summary
from glm4v.cli.options import unicode_text
from glm4v.client.conversation_file import read_file, read_messages
from glm4v.client.messages import attach_image
from glm4v.images import ImageLimits
from glm4v.v1 import inference_pb2 as api

if TYPE_CHECKING:
    from offline.pipeline import Pipeline


def command(
    model: Annotated[Path, typer.Option(metavar="DIR", help="The checkpoint.")],
    messages: Annotated[
        Path, typer.Option(metavar="FILE", help="A conversation as OpenAI-shaped JSON.")
    ],
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An image for the first user message.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling; 1 is off.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep this many tokens; 0 keeps all.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the output repeatable.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most output tokens.")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="S", parser=unicode_text, help="A stop string; may be repeated."),
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ignore the model's end tokens.")
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="Of activations and KV cache: float32 is the reference.")
    ] = "float32",
    weight_dtype: Annotated[
        str, typer.Option(help="Of stored weights: auto is that of activations.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, npu or simulated.")] = "auto",
    threads: Annotated[int, typer.Option(help="Arithmetic threads; 0: one for each core.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Generate one response without a server, to check exactness."""
    conversation = read_messages(messages)
    if image is not None:
        attach_image(conversation, read_file(image, "image"))
    sampling = api.SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    request = api.GenerateRequest(
        messages=conversation,
        sampling=sampling,
        max_tokens=max_tokens,
        stop=stop or (),
        ignore_eos=ignore_eos,
        return_prompt_ids=True,
    )
    pipeline = _pipeline(
        model, device=device, dtype=dtype, weight_dtype=weight_dtype, threads=threads
    )
    asyncio.run(_print_answer(pipeline, request, json=json))


def _pipeline(
    model: Path, *, device: str, dtype: str, weight_dtype: str, threads: int
) -> "Pipeline":
    # Imports torch, which takes seconds that `glm4v --help` should not take.
    from glm4v.checkpoint.checkpoint import Checkpoint
    from glm4v.device import DeviceOptions, open_device
    from offline.pipeline import Pipeline

    checkpoint = Checkpoint.open(model)
    is_bfloat16 = all(checkpoint.is_bfloat16(vision=part) for part in (True, False))
    options = DeviceOptions(
        device, dtype, weight_dtype, threads, is_bfloat16, checkpoint.quantized_by
    )
    return Pipeline(checkpoint, open_device(options), ImageLimits())


@dataclass
class _Answer:
    accepted: api.Accepted = field(default_factory=api.Accepted)
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finished: api.Finished = field(default_factory=api.Finished)


async def _print_answer(pipeline: "Pipeline", request: api.GenerateRequest, *, json: bool) -> None:
    answer = _Answer()
    async for event in pipeline.answer(request):
        piece = event.delta.text or event.finished.text
        answer.text += piece
        answer.token_ids += event.delta.token_ids
        if event.HasField("accepted"):
            answer.accepted = event.accepted
        if event.HasField("finished"):
            answer.finished = event.finished
        if not json:
            typer.echo(piece, nl=False)
    if json:
        print_object(
            answer_object(
                request_id=answer.accepted.request_id,
                input_ids=answer.accepted.prompt_ids,
                token_ids=answer.token_ids,
                text=answer.text,
                finished=answer.finished,
            )
        )
    else:
        typer.echo()
        typer.echo(summary(answer.finished), err=True)
