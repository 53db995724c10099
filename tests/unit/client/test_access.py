"""The key and the certificates of a client."""

import asyncio
from pathlib import Path

import grpc
import pytest
import trustme

from glm4v.client import AsyncClient, Client, Tls
from glm4v.client.messages import user_message
from glm4v.errors import ConfigurationError, InvalidRequest, Unavailable
from tests.scripted_gateway import ScriptedGateway, serving

KEY = "glm4v-0123456789abcdef"


async def test_the_key_goes_with_every_call() -> None:
    gateway = ScriptedGateway([0])
    with serving(gateway) as (target, _):
        with Client(target, api_key=KEY) as client:
            assert client.generate([user_message("?")]).text
        async with AsyncClient(target, api_key=KEY) as other:
            assert await other.generate([user_message("?")]).text()
        with Client(target) as client:
            assert client.generate([user_message("?")]).text
    sent = [metadata.get("authorization") for metadata in gateway.metadata]
    assert sent == [f"Bearer {KEY}"] * 3 + [None]


@pytest.mark.parametrize("key", ["", f"{KEY}\n", "two words", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidRequest, match=f"api_key has {len(key)} characters") as refusal:
        Client(api_key=key)
    assert not key or key not in str(refusal.value)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    missing, text = tmp_path / "missing.crt", tmp_path / "text"
    text.write_text("no certificate")
    for tls, said in (
        (Tls(ca=missing), f"tls: cannot read ca {missing}: No such file"),
        (Tls(ca=text), f"tls: ca {text} is not a PEM file"),
        (Tls(cert=text), "tls: cert and key belong together"),
        (Tls(ca="\0"), "tls: cannot read ca"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            Client(tls=tls)


async def test_a_certificate_may_have_another_name_than_the_address(tmp_path: Path) -> None:
    """As behind a forwarded port; without the name the certificate is refused."""
    authority = trustme.CA()
    issued = authority.issue_cert("gateway.example")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.cert_pem.bytes())
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())]
    )
    named = Tls(ca, server_name="gateway.example")
    with serving(ScriptedGateway([0, 0, 0]), credentials=credentials) as (target, _):
        with Client(target, tls=named) as client:
            assert client.generate([user_message("?")]).text
        async with AsyncClient(target, tls=named) as other:
            assert await other.generate([user_message("?")]).text()
        for name in (None, "other.example"):
            with (
                Client(target, tls=Tls(ca, server_name=name)) as client,
                pytest.raises(Unavailable),
            ):
                await asyncio.to_thread(client.connect, 2.0)
