"""The caller of an operation, and the scope of its requests."""

import hashlib
import json
from dataclasses import dataclass

_HOST_DIGITS = 6  # of a digest of a host, hexadecimal


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity behind a call, as the door established it.

    A request belongs to the owner that made it, and does not exist for other owners. All anonymous
    callers are one owner with an empty name. Capacity is shared between clients: the requests with
    the same `client` compete as one.

    An image is stored once for all owners, and a digest refers to it for those who have sent it.
    """

    owner: str = ""
    client: str = ""
    traceparent: str = ""  # W3C trace context, see `trace_context`

    @property
    def share(self) -> str:
        """The client as other processes know it: a digest of the owner, or of what is known.

        Empty if nothing is. The digest of a host is short: many hosts have the same one, so that
        what is stored does not name any of them.
        """
        if self.owner:
            return hashlib.sha256(f"owner {self.owner}".encode()).hexdigest()
        client = hashlib.sha256(f"client {self.client}".encode()).hexdigest()
        return client[:_HOST_DIGITS] if self.client else ""

    def cache_salt(self, salt: str) -> str:
        """The salt of the prefix cache. Two owners never share a prefix, whatever `salt` they send.

        The salt of an anonymous caller is used as given. It has at most 128 bytes and therefore
        never equals the salt of an owner, which has 134.
        """
        if not self.owner:
            return salt
        return "owner:" + hashlib.sha512(json.dumps([self.owner, salt]).encode()).hexdigest()
