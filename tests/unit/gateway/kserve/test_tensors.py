"""The binary form of tensors, as KServe and Triton publish it."""

import pytest

from gateway.doors.kserve.tensors import Tensor, pack, pack_counts, unpack
from glm4v.errors import InvalidRequest

# From Triton's "Binary Tensor Data Extension": 4 bytes of length, little-endian, then the element.
TWO = b"\x03\x00\x00\x00abc\x00\x00\x00\x00"


def test_bytes_have_their_length_before_them() -> None:
    assert unpack("x", "BYTES", TWO) == [b"abc", b""]
    assert pack([b"abc", b""]) == TWO
    assert unpack("x", "BYTES", pack(["猫".encode()] * 3)) == ["猫".encode()] * 3


@pytest.mark.parametrize(
    ("datatype", "data", "elements"),
    [
        ("BOOL", b"\x01\x00", [True, False]),
        ("UINT8", b"\xff", [255]),
        ("INT32", b"\xff\xff\xff\xff", [-1]),
        ("UINT32", b"\x01\x00\x00\x00\x00\x01\x00\x00", [1, 256]),
        ("INT64", b"\x00" * 7 + b"\x80", [-(2**63)]),
        ("UINT64", b"\xff" * 8, [2**64 - 1]),
        ("FP32", b"\x00\x00\x80\x3f", [1.0]),
        ("FP64", b"\x00" * 6 + b"\xf0\x3f", [1.0]),
        ("BYTES", b"", []),
    ],
)
def test_numbers_are_little_endian(datatype: str, data: bytes, elements: list[object]) -> None:
    assert unpack("x", datatype, data) == elements


def test_counts_are_four_bytes_each() -> None:
    assert pack_counts([1, 256]) == b"\x01\x00\x00\x00\x00\x01\x00\x00"


@pytest.mark.parametrize(
    ("datatype", "data", "text"),
    [
        ("FP16", b"\0\0", "input 'x' has the datatype 'FP16'; BYTES, BOOL"),
        ("INT32", b"\0" * 5, "input 'x' has 5 bytes; elements of INT32 have 4 each"),
        ("BYTES", b"\x04\0\0\0abc", "input 'x': element 0 of BYTES ends behind the 7 bytes"),
        ("BYTES", TWO + b"\x01", "input 'x': element 2 of BYTES ends behind the 12 bytes"),
        ("BYTES", b"\xff\xff\xff\xff", "element 0 of BYTES ends behind"),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(datatype: str, data: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest, match="^.*" + text.replace("'", "."[0])):
        unpack("x", datatype, data)


@pytest.mark.parametrize("shape", [(2,), (1, 1, 2), (0,), (-1,), (-1, -1)])
def test_a_shape_has_as_many_elements_as_there_are(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="send as many as the shape has"):
        Tensor("x", "BYTES", shape, [b"a"])


def test_one_element_is_one_element() -> None:
    for shape in [(), (1,), (1, 1)]:
        assert Tensor("x", "BYTES", shape, [b"a"]).only == b"a"
    with pytest.raises(InvalidRequest, match="input 'x' has 2 elements; send one"):
        _ = Tensor("x", "BYTES", (2,), [b"a", b"b"]).only
