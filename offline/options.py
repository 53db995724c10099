"""Options of the commands that load a model into their own process."""

from pathlib import Path
from typing import Annotated

import typer

from glm4v.cli.options import unicode_text

Model = Annotated[
    Path, typer.Option(metavar="DIR", help="The checkpoint.", show_default="the demo model")
]
Question = Annotated[
    str, typer.Option(metavar="TEXT", parser=unicode_text, help="Asked about each image.")
]
MaxInput = Annotated[int, typer.Option(min=1, help="Most tokens of a prompt, its image included.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]
TensorParallel = Annotated[
    int, typer.Option(min=1, help="Processes that share the language model.")
]
Device = Annotated[str, typer.Option(envvar="GLM4V_DEVICE", help="As in `glm4v settings`.")]
Dtype = Annotated[str, typer.Option(envvar="GLM4V_DTYPE", help="As in `glm4v settings`.")]
WeightDtype = Annotated[
    str, typer.Option(envvar="GLM4V_WEIGHT_DTYPE", help="As in `glm4v settings`.")
]
Threads = Annotated[
    int, typer.Option(min=0, envvar="GLM4V_THREADS", help="As in `glm4v settings`.")
]
