"""Who a caller is: by key, by certificate, or nobody in particular."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.access.authentication import MESSAGE, Authentication
from glm4v.api_keys import ApiKeys, new_key
from glm4v.errors import Unauthenticated
from tests.api_keys import add_key

ANN = [(NameOID.COMMON_NAME, "ann"), (NameOID.ORGANIZATION_NAME, "Müller, Söhne")]


def certificate(
    subject: list[tuple[x509.ObjectIdentifier, str]], *names: x509.GeneralName
) -> bytes:
    """A certificate, in DER."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in subject])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def refused(authentication: Authentication, *authorization: str, der: bytes | None = None) -> bool:
    with pytest.raises(Unauthenticated) as error:
        authentication.owner(authorization, der)
    return str(error.value) == MESSAGE


@pytest.fixture
def key(tmp_path: Path) -> str:
    return add_key(tmp_path / "keys", "ann")


@pytest.fixture
def by_key(key: str, tmp_path: Path) -> Authentication:
    return Authentication(ApiKeys(tmp_path / "keys"))


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_a_key_names_its_holder(by_key: Authentication, key: str, scheme: str) -> None:
    assert by_key.owner([scheme + key], None) == "ann"


def test_anything_but_one_valid_key_is_refused_with_the_same_words(
    by_key: Authentication, key: str
) -> None:
    good = f"Bearer {key}"
    for values in (
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        [key],
        [f"Basic {key}"],
        [f"Bearer{key}"],
        [f"Bearer\t{key}"],
        [f"Bearer {key},Bearer {key}"],
        [f"Bearer {key[:-1]}"],
        [f"Bearer {key}\0"],
        [f"Bearer {new_key()}"],
        ["Bearer " + "x" * 100_000],
        [good, good],
        [good, ""],
    ):
        assert refused(by_key, *values)
    assert refused(by_key, der=certificate(ANN)), "nobody has checked it"


def test_without_keys_callers_are_anonymous_whatever_they_send() -> None:
    nobody = Authentication(None)
    assert nobody.owner([], None) == nobody.owner(["Bearer sk-any"], certificate(ANN)) == ""


def test_a_certificate_names_its_subject_where_the_handshake_asks_for_one() -> None:
    by_certificate = Authentication(None, certificates=True)
    assert by_certificate.owner([], certificate(ANN)) == "O=Müller\\, Söhne,CN=ann"
    assert by_certificate.owner(["Bearer sk-any"], certificate(ANN)) == "O=Müller\\, Söhne,CN=ann"
    workload = x509.UniformResourceIdentifier("spiffe://here/ann"), x509.DNSName("ann.here")
    assert (
        by_certificate.owner([], certificate([], *workload)) == "URI=spiffe://here/ann,DNS=ann.here"
    )
    assert refused(by_certificate)
    assert refused(by_certificate, der=certificate([]))
    assert refused(by_certificate, der=b"no certificate")


def test_a_key_comes_before_the_certificate_and_has_to_be_valid(key: str, tmp_path: Path) -> None:
    both = Authentication(ApiKeys(tmp_path / "keys"), certificates=True)
    der = certificate([(NameOID.COMMON_NAME, "ann")])
    assert both.owner([f"Bearer {key}"], der) == "ann"
    assert both.owner([], der) == "CN=ann"  # another caller than the holder of the key
    assert refused(both, f"Bearer {new_key()}", der=der)
    assert refused(both)


def test_a_certificate_as_authorities_issue_them_is_read() -> None:
    issued = trustme.CA().issue_cert("ann@example.org", common_name="ann")
    der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    assert "CN=ann" in Authentication(None, certificates=True).owner([], der)
