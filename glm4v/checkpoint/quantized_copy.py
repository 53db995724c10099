"""`glm4v quantize`: writes a checkpoint's copy whose language model has 8-bit matrices.

The format is compressed-tensors' "pack-quantized" with scales in float32: what llm-compressor
writes for 8-bit weights, and the one form of them that vLLM 0.32 reads. The integers are those that
weight_dtype int8 or int8-channel makes while it loads.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.files import read_json_object
from glm4v.checkpoint.quantized import Quantization, quantize
from glm4v.checkpoint.safetensors_file import NewTensor, SafetensorsFile
from glm4v.checkpoint.tensor_place import TensorPlace
from glm4v.errors import CheckpointError, InvalidRequest

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_COPIED = (".json", ".model", ".py", ".txt", ".md", ".jinja")  # ends of names of small files
_PIECE_BYTES = 2**23  # read at a time
_GB = 1e9

Report = Callable[[int, int], None]  # bytes that were read, of how many


def write_quantized(
    source: Path, target: Path, quantization: Quantization, report: Report
) -> Checkpoint:
    """Write the checkpoint `source`, quantized, to the new folder `target`, and open it.

    The folder appears when all of it is on the disk. Raises CheckpointError for a source that
    cannot be read or is quantized already, InvalidRequest for a target that exists or cannot be
    written.
    """
    checkpoint = Checkpoint.open(source)
    if checkpoint.quantized:
        raise CheckpointError(
            f"{source}: quantized by {checkpoint.quantized_by} already; give the checkpoint it was "
            "made from"
        )
    copy = _Copy(checkpoint, quantization, report)
    try:
        with _new_folder(target, copy.total_bytes) as folder:
            copy.write(folder)
    except OSError as error:
        raise InvalidRequest(f"{target} cannot be written: {error.strerror}") from error
    return Checkpoint.open(target)


class _Copy:
    """The files of the copy, each tensor read once and in pieces."""

    def __init__(self, checkpoint: Checkpoint, quantization: Quantization, report: Report) -> None:
        self._source = checkpoint.directory
        self._quantization = quantization
        self._matrices = checkpoint.matrices()
        self._report = report
        self._read, self._to_read = 0, 0
        self._files: dict[Path, dict[str, TensorPlace]] = {}
        for name, place in checkpoint.tensors.items():
            self._files.setdefault(place.file, {})[name] = place
            self._to_read += place.end - place.start
        self._new = {file: self._planned(places) for file, places in self._files.items()}

    @property
    def total_bytes(self) -> int:
        """What the new files take."""
        return sum(tensor.nbytes for file in self._new.values() for tensor in file.values())

    def write(self, folder: Path) -> None:
        """All files, config.json last: without it no folder is a checkpoint."""
        for file, places in self._files.items():
            self._write_file(folder / file.name, places, self._new[file])
        if {file.name for file in self._files} != {"model.safetensors"}:
            weight_map = {name: file.name for file, new in self._new.items() for name in new}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            _write(folder / "model.safetensors.index.json", index)
        for path in sorted(self._source.iterdir()):
            small = path.suffix in _COPIED and not path.name.endswith(".index.json")
            if small and path.is_file() and path.name != "config.json":
                _sync(Path(shutil.copyfile(path, folder / path.name)))
        config = read_json_object(self._source / "config.json")
        _write(folder / "config.json", config | {"quantization_config": self._description()})

    def _planned(self, places: dict[str, TensorPlace]) -> dict[str, NewTensor]:
        new: dict[str, NewTensor] = {}
        for name, place in places.items():
            if name not in self._matrices:
                new[name] = NewTensor(place.dtype, place.shape)
                continue
            rows, columns = place.shape
            groups = -(-columns // self._quantization.group_of(columns))
            new[name + "_packed"] = NewTensor("I32", (rows, -(-columns // 4)))
            new[name + "_scale"] = NewTensor("F32", (rows, groups))
            new[name + "_shape"] = NewTensor("I64", (2,))
        return new

    def _write_file(
        self, path: Path, places: dict[str, TensorPlace], new: dict[str, NewTensor]
    ) -> None:
        with SafetensorsFile(path, new) as file:
            for name, place in places.items():
                with place.file.open("rb") as stored:
                    if name in self._matrices:
                        self._write_matrix(file, name, place, stored)
                    else:
                        file.write(self._pieces(place, stored, _PIECE_BYTES))
            file.finish()

    def _write_matrix(
        self, file: SafetensorsFile, name: str, place: TensorPlace, stored: BufferedReader
    ) -> None:
        rows, columns = place.shape
        row_bytes = (place.end - place.start) // rows
        scales: list[torch.Tensor] = []

        def packed() -> Iterator[memoryview]:
            at_once = max(1, _PIECE_BYTES // row_bytes) * row_bytes
            for piece in self._pieces(place, stored, at_once):
                values = torch.frombuffer(piece, dtype=_DTYPES[place.dtype]).view(-1, columns)
                try:
                    quantized = quantize(values, self._quantization)
                except ValueError as error:
                    raise CheckpointError(
                        f"{place.file}: {name} has {error}, which 8 bits cannot hold; the "
                        "checkpoint is damaged"
                    ) from None
                scales.append(quantized.scales)
                unsigned = quantized.values.view(torch.uint8).bitwise_xor(0x80)
                words = torch.nn.functional.pad(unsigned, (0, -columns % 4))
                yield words.contiguous().numpy().data

        file.write(packed())
        file.write([torch.cat(scales).numpy().data])
        file.write([torch.tensor([rows, columns]).numpy().data])

    def _pieces(
        self, place: TensorPlace, stored: BufferedReader, at_once: int
    ) -> Iterator[memoryview]:
        stored.seek(place.start)
        for at in range(place.start, place.end, at_once):
            piece = memoryview(bytearray(min(at_once, place.end - at)))
            if stored.readinto(piece) != len(piece):
                raise CheckpointError(f"{place.file}: truncated while it was read")
            self._read += len(piece)
            self._report(self._read, self._to_read)
            yield piece

    def _description(self) -> dict[str, Any]:
        """quantization_config, in the words of compressed-tensors."""
        group = self._quantization.group
        weights = {
            "num_bits": 8,
            "type": "int",
            "symmetric": True,
            "strategy": "channel" if group is None else "group",
            "group_size": group,
            "dynamic": False,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": weights,
                    "input_activations": None,
                    "output_activations": None,
                }
            },
            "ignore": ["re:transformer[.]vision[.].*"],
            "kv_cache_scheme": None,
        }


@contextmanager
def _new_folder(target: Path, needed: int) -> Iterator[Path]:
    """A folder beside `target` that becomes it in one step, when all in it is on the disk.

    What an interrupted run left there is removed. Raises InvalidRequest and OSError.
    """
    if target.exists() or target.is_symlink():
        raise InvalidRequest(f"{target} exists already; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.mkdir(exist_ok=True)
    handle = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(f"{target} is being written by another process") from None
        for left in unfinished.iterdir():
            left.unlink()
        try:
            _check_space(unfinished, needed)
            yield unfinished
            os.fsync(handle)
            unfinished.rename(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    finally:
        os.close(handle)
    _sync(target.parent)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"{needed / _GB:.2f} GB are needed, {free / _GB:.2f} GB free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({what})")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
