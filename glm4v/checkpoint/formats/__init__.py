"""Checkpoints that other tools quantized: which they are, and how their matrices are stored."""

from glm4v.checkpoint.formats.format import Format, find_format
from glm4v.checkpoint.formats.stored_matrix import Layout, StoredMatrix

__all__ = ["Format", "Layout", "StoredMatrix", "find_format"]
