"""The caller of an operation, and the scope of its requests."""

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity behind a call, as the door established it.

    A request belongs to the owner that made it, and does not exist for other owners. All anonymous
    callers are one owner with an empty name. Capacity is shared between clients: the requests with
    the same `client` compete as one.

    Images have no owner yet: a digest refers to the same file for every caller. A scope for digests
    is to be derived here, like that of the prefix cache.
    """

    owner: str = ""
    client: str = ""

    def cache_salt(self, salt: str) -> str:
        """The salt of the prefix cache. Two owners never share a prefix, whatever `salt` they send.

        The salt of an anonymous caller is used as given. It has at most 128 bytes and therefore
        never equals the salt of an owner, which has 134.
        """
        if not self.owner:
            return salt
        return "owner:" + hashlib.sha512(json.dumps([self.owner, salt]).encode()).hexdigest()
