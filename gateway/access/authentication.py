"""Who makes a call, from what every transport has: its `authorization` and its certificate."""

from collections.abc import Sequence
from functools import lru_cache

from cryptography import x509

from glm4v.api_keys import ApiKeys
from glm4v.errors import Unauthenticated

MESSAGE = "a valid API key is needed; send it as `authorization: Bearer KEY`"
_SCHEME = "bearer"
_REMEMBERED = 1024  # certificates


class Authentication:
    """Names the callers of a gateway.

    Args:
        keys: The accepted keys; None accepts callers without one, and ignores what they send.
        certificates: Whether the handshake has checked that clients have a certificate. Then a key
            is not needed, and one that is sent is checked and comes first.
    """

    def __init__(self, keys: ApiKeys | None, *, certificates: bool = False) -> None:
        self._keys = keys
        self._certificates = certificates

    @property
    def is_open(self) -> bool:
        """Whether anybody is let in."""
        return self._keys is None and not self._certificates

    def owner(self, authorization: Sequence[str], certificate: bytes | None) -> str:
        """The caller's name: that of its key, or the subject of its certificate.

        Empty for an anonymous caller. Raises Unauthenticated, whose text is always the same.

        Args:
            authorization: All values of the header or metadata of this name.
            certificate: Of the client, in DER; None without one.
        """
        if self._keys is not None and (authorization or not self._certificates):
            return self._key_owner(self._keys, authorization)
        if not self._certificates:
            return ""
        if certificate is None:
            raise Unauthenticated(MESSAGE)
        return _subject(certificate)

    def _key_owner(self, keys: ApiKeys, authorization: Sequence[str]) -> str:
        if len(authorization) != 1:  # of several a proxy may have checked another one
            raise Unauthenticated(MESSAGE)
        scheme, _, key = authorization[0].partition(" ")
        name = keys.name_of(key.strip(" ")) if scheme.lower() == _SCHEME else None
        if name is None:
            raise Unauthenticated(MESSAGE)
        return name


@lru_cache(_REMEMBERED)
def _subject(certificate: bytes) -> str:
    """The subject of a certificate as RFC 4514 writes it; has an equals sign, as no key name has.

    Where it is empty, the alternative names stand for it. Raises Unauthenticated without either.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        if subject := parsed.subject.rfc4514_string():
            return subject
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [f"URI={uri}" for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
        found += [f"DNS={name}" for name in names.get_values_for_type(x509.DNSName)]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        found = []
    if not found:
        raise Unauthenticated(MESSAGE)
    return ",".join(found)
