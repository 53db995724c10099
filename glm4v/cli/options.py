"""Options of the subcommands that talk to a gateway."""

from pathlib import Path
from typing import Annotated

import typer

from glm4v.client import DEFAULT_TARGET

_PORT = DEFAULT_TARGET.rpartition(":")[2]
_GRPC_NAMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")


def unicode_text(argument: str) -> str:
    """An argument that is sent as text; Python lets bytes that are not UTF-8 pass."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(f"not UTF-8 text at character {error.start}") from None
    return argument


def gateway_address(argument: str) -> str:
    """What gRPC takes for the address of a gateway, also from one that is written as a URL."""
    text = unicode_text(argument)
    scheme, _, rest = text.rpartition("://")
    if scheme.lower() == "https":
        raise typer.BadParameter(f"{text}: a gateway serves no TLS; give HOST:PORT")
    if scheme.lower() not in ("", "http", "grpc") or text.startswith(_GRPC_NAMES):
        return text  # a name that gRPC resolves
    place = rest.rstrip("/")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):  # the port is left out
        host, port, place = place, _PORT, f"{place}:{_PORT}"
    if not host or "/" in place or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise typer.BadParameter(f"{text} is no HOST:PORT")
    return place


Server = Annotated[
    str, typer.Option(metavar="HOST:PORT", parser=gateway_address, help="The gateway.")
]
RequestId = Annotated[
    str, typer.Argument(parser=unicode_text, help="As given to, or shown by, glm4v ask.")
]
Timeout = Annotated[
    float, typer.Option(metavar="S", help="Seconds for the whole answer; inf: no end.")
]

ImageOrText = Annotated[
    str | None, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)
]
Text = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The question.", show_default=False)
]
Messages = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A conversation as OpenAI-shaped JSON.")
]
Image = Annotated[Path | None, typer.Option(metavar="FILE", help="An image file, as IMAGE.")]

Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Keep the best of this probability together.")]
TopK = Annotated[int | None, typer.Option(help="Keep this many tokens; 0 keeps all.")]
MinP = Annotated[float | None, typer.Option(help="Least probability in relation to the best.")]
TypicalP = Annotated[float | None, typer.Option(help="Keep the typical ones; 1 is off.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="1 is off.")]
FrequencyPenalty = Annotated[float | None, typer.Option(help="0 is off.")]
PresencePenalty = Annotated[float | None, typer.Option(help="0 is off.")]
Seed = Annotated[int | None, typer.Option(help="Makes the answer repeatable.")]

MaxTokens = Annotated[int | None, typer.Option(metavar="N", help="Longest answer.")]
MinTokens = Annotated[int | None, typer.Option(metavar="N", help="No end token before.")]
JsonSchema = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The answer is JSON of this schema.")
]
Regex = Annotated[
    str | None,
    typer.Option(metavar="R", parser=unicode_text, help="The whole answer matches this."),
]
Choice = Annotated[
    list[str] | None,
    typer.Option(metavar="S", parser=unicode_text, help="The answer is one of these; repeatable."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="S", parser=unicode_text, help="A text that ends the answer; repeatable."),
]
StopTokenId = Annotated[
    list[int] | None, typer.Option(metavar="ID", help="A token that ends it; repeatable.")
]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on past the model's own end.")]
Logprobs = Annotated[
    int | None, typer.Option(metavar="K", help="With --json: of each token and K rivals.")
]
PromptLogprobs = Annotated[
    int | None, typer.Option(metavar="K", help="With --json: of each prompt token and K rivals.")
]
Number = Annotated[int | None, typer.Option("--n", "-n", metavar="N", help="Answers to give.")]
BestOf = Annotated[
    int | None, typer.Option(metavar="M", help="Give the N most probable of M answers.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]
NewRequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        parser=unicode_text,
        help="For attach and cancel; the same one twice runs once.",
    ),
]
OrphanTimeout = Annotated[
    float | None,
    typer.Option(metavar="S", help="Seconds it keeps running with no client attached."),
]
