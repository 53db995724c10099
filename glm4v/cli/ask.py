"""`glm4v ask`: one question and its answer."""

from contextlib import AbstractContextManager
from pathlib import Path

import typer

from glm4v.cli import options as opt
from glm4v.cli.answer import answer_object, logprob_objects, print_object
from glm4v.cli.forms import response_format
from glm4v.cli.gateway import Access, gateway
from glm4v.cli.reading import INTERRUPTED, collect, stream
from glm4v.client import DEFAULT_TARGET, Client
from glm4v.client.conversation_file import read_file, read_messages
from glm4v.client.generation import Generation
from glm4v.client.messages import attach_image, user_message
from glm4v.client.options import GenerateOptions
from glm4v.v1 import inference_pb2 as pb

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def ask(
    image_or_text: opt.ImageOrText = None,
    text: opt.Text = None,
    messages: opt.Messages = None,
    image: opt.Image = None,
    server: opt.Server = DEFAULT_TARGET,
    api_key_file: opt.ApiKeyFile = None,
    tls_ca: opt.TlsCa = None,
    tls_cert: opt.TlsCert = None,
    tls_key: opt.TlsKey = None,
    tls_server_name: opt.TlsServerName = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    top_k: opt.TopK = None,
    min_p: opt.MinP = None,
    typical_p: opt.TypicalP = None,
    repetition_penalty: opt.RepetitionPenalty = None,
    frequency_penalty: opt.FrequencyPenalty = None,
    presence_penalty: opt.PresencePenalty = None,
    seed: opt.Seed = None,
    max_tokens: opt.MaxTokens = None,
    min_tokens: opt.MinTokens = None,
    json_schema: opt.JsonSchema = None,
    regex: opt.Regex = None,
    choice: opt.Choice = None,
    stop: opt.Stop = None,
    stop_token_id: opt.StopTokenId = None,
    ignore_eos: opt.IgnoreEos = False,
    number: opt.Number = None,
    best_of: opt.BestOf = None,
    logprobs: opt.Logprobs = None,
    prompt_logprobs: opt.PromptLogprobs = None,
    json: opt.Json = False,
    request_id: opt.NewRequestId = None,
    orphan_timeout: opt.OrphanTimeout = None,
    timeout: opt.Timeout = 600.0,
) -> None:
    """Ask about an image, or without one: glm4v ask photo.jpg "What is this?"

    Sampling options default to those of the server. Ctrl-C cancels the request.
    """
    if not json and (logprobs, prompt_logprobs) != (None, None):
        raise typer.BadParameter("--logprobs and --prompt-logprobs need --json")
    options: GenerateOptions = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "typical_p": typical_p,
        "repetition_penalty": repetition_penalty,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "seed": seed,
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "response_format": response_format(json_schema, regex, choice),
        "stop": stop,
        "stop_token_ids": stop_token_id,
        "ignore_eos": ignore_eos,
        "n": number,
        "best_of": best_of,
        "top_logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
        "request_id": request_id,
        "orphan_timeout_s": orphan_timeout,
        "return_prompt_ids": json,
    }
    words = [word for word in (image_or_text, text) if word is not None]
    access = Access(api_key_file, tls_ca, tls_cert, tls_key, tls_server_name)
    connected = gateway(server, access, timeout)
    _run(connected, _conversation(words, messages, image), options, json=json)


def _run(
    connected: AbstractContextManager[Client],
    conversation: list[pb.Message],
    options: GenerateOptions,
    *,
    json: bool,
) -> None:
    try:
        with connected as client, client.generate(conversation, **options) as generation:
            _show(generation, options, json)
    except KeyboardInterrupt:  # closing the generation cancelled the request
        raise typer.Exit(INTERRUPTED) from None


def _show(generation: Generation, options: GenerateOptions, json: bool) -> None:
    if not json:
        stream(generation)
        return
    collect(generation)
    assert generation.accepted is not None  # else reading would have raised
    for number, choice in enumerate(generation.choices):
        assert choice.finished is not None
        answer = answer_object(
            request_id=generation.request_id,
            input_ids=generation.accepted.prompt_ids,
            token_ids=choice.token_ids,
            text=choice.text,
            finished=choice.finished,
            logprobs=choice.logprobs if options["top_logprobs"] is not None else None,
        )
        if len(generation.choices) > 1:
            answer["choice"] = number
        if generation.prompt_logprobs is not None:
            answer["prompt_logprobs"] = logprob_objects(generation.prompt_logprobs.tokens)
        print_object(answer)


def _conversation(words: list[str], messages: Path | None, image: Path | None) -> list[pb.Message]:
    """The messages: of two words the first is an image; a single word may be one."""
    if image is None and words and (len(words) > 1 or _is_image_path(words[0])):
        image = Path(words.pop(0))
    if len(words) > 1:
        raise typer.BadParameter(
            f"two images: {image} and {words[0]}; a conversation has at most one"
        )
    if messages is None and not words:
        raise typer.BadParameter("no question; use glm4v ask [IMAGE] TEXT, or --messages FILE")
    if messages is not None and words:
        raise typer.BadParameter(f"--messages already has the text; remove {words[0]!r}")
    data = None if image is None else read_file(image, "image")
    if messages is None:
        return [user_message(words[0], data)]
    conversation = read_messages(messages)
    if data is not None:
        attach_image(conversation, data)
    return conversation


def _is_image_path(word: str) -> bool:
    """Whether the word names a file or looks like a file name. A question may end in .png too."""
    path = Path(word)
    try:
        return path.is_file() or (
            path.suffix.lower() in _IMAGE_SUFFIXES and not set(word) & set(" \n")
        )
    except (OSError, ValueError):  # not a valid path
        return False
