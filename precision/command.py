"""`glm4v precision`: its subcommands."""

import typer

from precision.compare_command import compare
from precision.gate_command import gate
from precision.predict_command import predict
from precision.sample_command import sample_coco
from precision.score_command import score

command = typer.Typer(
    no_args_is_help=True, help="Caption images, score captions, compare systems and backends."
)
command.command()(predict)
command.command()(score)
command.command()(compare)
command.command()(sample_coco)
command.command()(gate)


@command.callback()
def precision() -> None:
    """Caption images, score captions, compare systems and backends."""
