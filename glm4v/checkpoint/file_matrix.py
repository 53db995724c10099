"""Matrices that stay in their files until a device reads and packs them piece by piece."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glm4v.checkpoint.loading import Loading
from glm4v.errors import CheckpointError, Overloaded
from glm4v.host.out_of_memory import is_out_of_memory


class OpenFile:
    """A file to read from, open as long as something refers to it; raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)


@dataclass(frozen=True, slots=True)
class FileRows:
    """Rows of a tensor, at equal distances in a file."""

    file: OpenFile
    offset: int  # of the first one, in bytes
    stride: int  # from one to the next, in bytes
    count: int


@dataclass(frozen=True, slots=True)
class FileMatrix:
    """Some rows and columns of tensors, one after the other; nothing of them is read yet."""

    name: str
    dtype: str  # as safetensors spells it
    rows: tuple[FileRows, ...]
    read_columns: int  # of each row
    skipped: int  # of these, in front of the matrix: they belong to its first group
    columns: int
    group: int  # columns that share a scale once they are quantized to 8 bits; 0: they are not
    loading: Loading | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return sum(rows.count for rows in self.rows), self.columns

    @contextmanager
    def reading(self, bytes_per_value: int) -> Iterator[None]:
        """Surrounds the one time that the matrix is read; notes the bytes.

        Raises CheckpointError for OSError, EOFError, and ValueError (of values that 8 bits cannot
        hold), Overloaded where there is not enough memory.
        """
        file = self.rows[0].file.path
        try:
            yield
        except ValueError as error:
            raise CheckpointError(
                f"{file}: {self.name} has {error}, which 8 bits cannot hold; the checkpoint is "
                "damaged"
            ) from None
        except (OSError, EOFError) as error:
            if is_out_of_memory(error):
                raise Overloaded(f"{file}: not enough memory to read {self.name}") from error
            raise CheckpointError(f"{file}: {self.name} cannot be read: {error}") from error
        if self.loading is not None:
            self.loading.add(self.shape[0] * self.read_columns * bytes_per_value)
