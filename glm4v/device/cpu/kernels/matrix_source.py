"""Matrices as the kernels read them: from memory, or from the files of a checkpoint."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from glm4v.checkpoint.file_matrix import FileMatrix
from glm4v.checkpoint.quantized import Matrix, QuantizedWeight
from glm4v.checkpoint.tensor_place import DTYPE_BYTES
from glm4v.device.cpu.kernels.library import MatrixSource, RowSpan, check_floats

_DTYPES = {"F32": 0, "F16": 1, "BF16": 2, "I8": 3}  # Dtype in source/matrix_source.h


@contextmanager
def matrix_source(matrix: Matrix) -> Iterator[MatrixSource]:
    """`matrix` for the kernels, which read it inside; raises as `FileMatrix.reading`.

    Raises ValueError for a tensor that is not float32 on the host.
    """
    if isinstance(matrix, FileMatrix):
        spans = [RowSpan(None, r.offset, r.stride, r.count, r.file.descriptor) for r in matrix.rows]
        with matrix.reading(DTYPE_BYTES[matrix.dtype]):
            array = (RowSpan * len(spans))(*spans)
            yield MatrixSource(
                ctypes.addressof(array),
                len(spans),
                matrix.read_columns,
                matrix.skipped,
                matrix.group,
                _DTYPES[matrix.dtype],
            )
        return
    rows, columns = matrix.shape
    if isinstance(matrix, QuantizedWeight):
        dtype, tensor = "I8", matrix.values.contiguous()
    else:
        dtype, tensor = "F32", matrix.contiguous()
        check_floats("weight", tensor, (rows, columns))
    span = RowSpan(tensor.data_ptr(), 0, columns * tensor.itemsize, rows, 0)
    yield MatrixSource(ctypes.addressof(span), 1, columns, 0, 0, _DTYPES[dtype])
