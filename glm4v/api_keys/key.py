"""One API key: 256 random bits that the holder knows, and the digest that files hold.

A digest without salt or stretching is enough, because nobody can guess 256 bits. That is why only
generated keys are accepted, and no passwords.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass

from glm4v.errors import ConfigurationError

_PREFIX = "glm4v_"  # for scanners that look for secrets in repositories
_RANDOM_BYTES = 32
_FORM = re.compile(_PREFIX + r"[A-Za-z0-9_-]{43}")  # 43 base64 digits hold 32 bytes
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a holder
_ID_DIGITS = 8


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What a file holds of a key.

    Attributes:
        name: Of its holder, who may have several keys.
        digest: SHA-256 of the key, in hexadecimal.
        created: When it was made, as ISO 8601; empty if that is unknown.
    """

    name: str
    digest: str
    created: str = ""

    @property
    def id(self) -> str:
        """Tells the keys of one holder apart; says nothing about the key."""
        return self.digest[:_ID_DIGITS]


def new_key() -> str:
    """A random key."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(key: str) -> str | None:
    """The digest of a key; None for a text that does not have the form of one."""
    if _FORM.fullmatch(key) is None:
        return None
    return hashlib.sha256(key.encode()).hexdigest()


def check_name(name: str) -> str:
    """The name. Raises ConfigurationError unless a holder may be called so."""
    if re.fullmatch(NAME, name) is None:
        raise ConfigurationError(
            f"{name[:80]!r} is not a name for a key: up to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return name
