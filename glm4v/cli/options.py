"""Options of the subcommands that talk to a gateway."""

import re
from pathlib import Path
from typing import Annotated

import typer

from glm4v.client import DEFAULT_TARGET

_PORT = DEFAULT_TARGET.rpartition(":")[2]
_HTTPS_PORT = "443"
HTTPS = "https://"
_GRPC_NAMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")


def unicode_text(argument: str) -> str:
    """A text argument. Rejects bytes that are not UTF-8, which Python lets pass."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(f"not UTF-8 text at character {error.start}") from None
    return argument


def namespace(argument: str) -> str:
    """As GLM4V_NAMESPACE."""
    from glm4v.process.settings import NAMESPACE  # slow to import, and few subcommands need it

    if not re.fullmatch(NAMESPACE, argument):
        raise typer.BadParameter(
            f"{argument!r} is not a namespace: up to 32 letters, digits, '.', '_' and '-'"
        )
    return argument


def gateway_address(argument: str) -> str:
    """The address of a gateway as gRPC expects it, behind https:// with TLS; accepts a URL."""
    text = unicode_text(argument)
    scheme, _, rest = text.rpartition("://")
    if scheme.lower() not in ("", "http", "https", "grpc") or text.startswith(_GRPC_NAMES):
        return text  # a name for gRPC's resolver
    place, is_https = rest.rstrip("/"), scheme.lower() == "https"
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):  # no port
        host, port = place, _HTTPS_PORT if is_https else _PORT
        place = f"{place}:{port}"
    if not host or "/" in place or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise typer.BadParameter(f"{text} is not HOST:PORT")
    return HTTPS + place if is_https else place


Server = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        parser=gateway_address,
        help="Address of the gateway; https://HOST:PORT connects with TLS.",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file with an API key.",
        show_default="GLM4V_API_KEY, else the file GLM4V_API_KEY_FILE",
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Connect with TLS, and trust these authorities (PEM)."),
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The certificate to present (PEM).")
]
TlsKey = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The private key of --tls-cert (PEM).")
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        parser=unicode_text,
        help="The name in the gateway's certificate, where the address has another.",
    ),
]
RequestId = Annotated[
    str, typer.Argument(parser=unicode_text, help="The id that glm4v ask was given or printed.")
]
Timeout = Annotated[float, typer.Option(metavar="S", help="Deadline in seconds; inf: none.")]

ImageOrText = Annotated[
    str | None, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)
]
Text = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The question.", show_default=False)
]
Messages = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A conversation in the shape of OpenAI's chat API, as JSON."),
]
Image = Annotated[Path | None, typer.Option(metavar="FILE", help="An image file, as IMAGE.")]

Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling; 1 is off.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k most probable tokens; 0 keeps all.")]
MinP = Annotated[
    float | None, typer.Option(help="Minimum probability relative to the best token; 0 is off.")
]
TypicalP = Annotated[float | None, typer.Option(help="Locally typical sampling; 1 is off.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="1 is off.")]
FrequencyPenalty = Annotated[float | None, typer.Option(help="0 is off.")]
PresencePenalty = Annotated[float | None, typer.Option(help="0 is off.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling reproducible.")]

MaxTokens = Annotated[int | None, typer.Option(metavar="N", help="Maximum number of tokens.")]
MinTokens = Annotated[int | None, typer.Option(metavar="N", help="Minimum number of tokens.")]
JsonSchema = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The answer is JSON that is valid under this schema."),
]
Regex = Annotated[
    str | None,
    typer.Option(
        metavar="R", parser=unicode_text, help="The whole answer matches this expression."
    ),
]
Choice = Annotated[
    list[str] | None,
    typer.Option(metavar="S", parser=unicode_text, help="The answer is one of these; repeatable."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="S", parser=unicode_text, help="A stop sequence; repeatable."),
]
StopTokenId = Annotated[
    list[int] | None, typer.Option(metavar="ID", help="A stop token; repeatable.")
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Continue after the model's end tokens.")
]
Logprobs = Annotated[
    int | None, typer.Option(metavar="K", help="With --json: of each token and K alternatives.")
]
PromptLogprobs = Annotated[
    int | None,
    typer.Option(metavar="K", help="With --json: of each prompt token and K alternatives."),
]
Number = Annotated[int | None, typer.Option("--n", "-n", metavar="N", help="Number of answers.")]
BestOf = Annotated[
    int | None, typer.Option(metavar="M", help="Return the N most probable of M answers.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the complete answer as a JSON object.")]
NewRequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        parser=unicode_text,
        help="Id for attach and cancel; makes retries idempotent.",
    ),
]
OrphanTimeout = Annotated[
    float | None,
    typer.Option(
        metavar="S", help="How long the request keeps running with no client attached, in seconds."
    ),
]
