"""The notation of backends."""

import pytest

from glm4v.errors import InvalidRequest
from offline.rank_group import Hardware
from precision.backend import Backend


@pytest.mark.parametrize(
    ("text", "hardware"),
    [
        ("cpu", Hardware("cpu")),
        ("npu,dtype=float16", Hardware("npu", dtype="float16")),
        (
            "cpu,dtype=float32,weight_dtype=bfloat16,threads=3,tensor_parallel=2",
            Hardware("cpu", "float32", "bfloat16", 3, 2),
        ),
    ],
)
def test_a_device_and_the_names_of_its_settings(text: str, hardware: Hardware) -> None:
    assert Backend.parse(text) == Backend(text, hardware)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpu,bf16", "names no backend at 'bf16'; write a device and any of dtype=…"),
        ("cpu,type=float16", "at 'type=float16'"),
        ("cpu,dtype=float16,dtype=float32", "at 'dtype=float32'"),
        ("dtype=float16", "begins with no device"),
        ("", "begins with no device"),
        ("cpu,tensor_parallel=two", "tensor_parallel is 'two'; a whole number above 0 is needed"),
        ("cpu,tensor_parallel=0", "tensor_parallel is '0'; a whole number above 0 is needed"),
    ],
)
def test_what_names_no_backend_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Backend.parse(text)
    assert said in str(refused.value)
