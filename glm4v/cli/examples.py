"""`glm4v examples`: questions to try the demo model with."""

import shlex

import typer

from glm4v.checkpoint.demo import demo_examples


def examples() -> None:
    """Print commands that ask the demo model about the images that come with it."""
    for example in demo_examples():
        image = [] if example.image is None else [str(example.image)]
        wording, _ = example.turns[0]
        typer.echo(shlex.join(["glm4v", "ask", *image, wording]))
