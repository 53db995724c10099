"""Who makes a call, and what belongs to them."""

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity behind a call, as the door established it.

    A request belongs to the owner who made it: for other owners it does not exist. All anonymous
    callers are one owner, whose name is empty. `share` groups the requests that compete as one
    client for capacity.

    Images have no owner yet: a digest stands for the same file, whoever sent it. The scope of
    digests, once they have one, is derived here as well.
    """

    owner: str = ""
    share: str = ""

    def cache_salt(self, salt: str) -> str:
        """The salt of the prefix cache: an owner shares no prefix with another, whatever `salt` is.

        The salt of an anonymous caller stays as given. It has at most 128 bytes, and so never
        equals the salt of an owner, which has 134.
        """
        if not self.owner:
            return salt
        return "owner:" + hashlib.sha512(json.dumps([self.owner, salt]).encode()).hexdigest()
