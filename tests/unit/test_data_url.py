"""data: URLs as browsers read them, and as mail, tokens and other clients write them."""

import base64

import pytest

from glm4v.data_url import is_data_url, read_data_url
from glm4v.errors import InvalidRequest

IMAGE = bytes(range(256)) + b"\xff\xfe"  # 258 bytes: no padding; every character of the alphabet
SHORTER = IMAGE[:-1]  # one =
SHORTEST = IMAGE[:-2]  # two


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("data", [IMAGE, SHORTER, SHORTEST, b"\0"])
@pytest.mark.parametrize(
    "form",
    [
        "data:image/png;base64,{plain}",
        "DATA:IMAGE/PNG;BASE64,{plain}",
        "data:;base64,{plain}",
        "data:base64;base64,{plain}",
        "data:image/png;charset=utf-8;name=a.png;base64,{plain}",
        "data:image/png; base64 ,{plain}",
        "\n data:image/png;base64,{plain} \t",
        "data:image/png;base64,{unpadded}",
        "data:image/png;base64,{url_safe}",
        "data:image/png;base64,\r\n{mime}",
        "data:image/png;base64,{quoted}",
        "data:image/png,{percent}",
    ],
)
def test_each_form_gives_the_bytes(form: str, data: bytes) -> None:
    plain = encoded(data)
    url = form.format(
        plain=plain,
        unpadded=plain.rstrip("="),
        url_safe=base64.urlsafe_b64encode(data).decode(),
        mime=base64.encodebytes(data).decode().replace("\n", "\r\n"),
        quoted=plain.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        percent="".join(f"%{byte:02x}" for byte in data),
    )
    assert is_data_url(url)
    assert read_data_url(url, "url") == data


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64", "url: a data: URL has a comma before its data; there is none"),
        ("data:image/png,abc", "url: a data: URL of an image reads data:image/TYPE;base64,DATA"),
        ("data:image/png;base64x,abc", "url: a data: URL of an image reads data:image/TYPE;base64"),
        ("data:;base64,ab*d", "url: '*' at character 2 of the data is not base64"),
        ("data:;base64,ab=d", "url: '=' at character 2 of the data is not base64"),
        ("data:;base64,é", "url: 'é' at character 0 of the data is not base64"),
        ("data:;base64,abcde", "url: the base64 data are cut off after 5 characters"),
        ("data:;base64,abc==", "url: 3 characters of base64 do not end with 2 '='"),
        ("data:;base64,abcd=", "url: 4 characters of base64 do not end with 1 '='"),
        ("data:;base64,\ud800", "url: no Unicode text at character 0"),
    ],
)
def test_what_is_wrong_is_said(url: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_data_url(url, "url")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("path", ["data", "data/photo.png", "./data:x", "metadata:x"])
def test_a_path_is_no_data_url(path: str) -> None:
    assert not is_data_url(path)
