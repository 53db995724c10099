"""API keys: files with their digests, and the keys that a gateway accepts."""

from glm4v.api_keys.key import KeyEntry, digest_of, new_key
from glm4v.api_keys.store import ApiKeys

__all__ = ["ApiKeys", "KeyEntry", "digest_of", "new_key"]
