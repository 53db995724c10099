"""Plots as files."""

from pathlib import Path
from typing import TYPE_CHECKING

from glm4v.errors import InvalidRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # of the extra `bench`


def save_png(drawing: "Figure", path: Path) -> None:
    """Write a plot. Raises InvalidRequest if that fails."""
    try:
        drawing.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be written ({error.strerror}); choose another"
        ) from None
