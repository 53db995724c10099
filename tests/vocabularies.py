"""A small model's numbers and its vocabulary of bytes, without any weights."""

import shutil
import tempfile
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.spec import ModelSpec, read_spec


@cache
def small_spec() -> ModelSpec:
    """The tiny checkpoint's: 256 byte tokens, specials from 256 on, a context of 512."""
    with (
        as_file(files("glm4v.checkpoint") / "tiny_config.json") as config,
        tempfile.TemporaryDirectory() as folder,
    ):
        shutil.copy(config, Path(folder) / "config.json")
        return read_spec(Path(folder))


@cache
def byte_tokenizer() -> Tokenizer:
    """One token for each byte."""
    return Tokenizer({bytes([value]): value for value in range(256)}, small_spec())
