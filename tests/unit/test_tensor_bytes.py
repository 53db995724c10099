"""Tensors come back as they were stored, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm4v.tensor_bytes import CorruptTensor, TensorBytes, pack, unpack


@given(st.binary(max_size=64).filter(lambda data: len(data) % 4 == 0))
def test_what_was_packed_comes_back(data: bytes) -> None:
    tensor = unpack(pack(TensorBytes("float32", (len(data) // 4,), data)))
    assert (tensor.dtype, tensor.shape, bytes(tensor.data)) == (
        "float32",
        (len(data) // 4,),
        data,
    )


@given(st.data())
def test_a_single_wrong_bit_is_noticed(data: st.DataObject) -> None:
    packed = bytearray(pack(TensorBytes("bfloat16", (2, 3), b"123456789abc")))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptTensor):
        unpack(bytes(packed))


@given(st.binary(max_size=40))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(CorruptTensor):
        unpack(noise)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(CorruptTensor, match="object"):
        unpack(pack(TensorBytes("object", (1,), b"1234")))
