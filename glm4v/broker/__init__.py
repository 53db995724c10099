"""The durable queue protocol: the only code that speaks Redis. docs/protocol.md explains it."""

from glm4v.broker.broker import Broker
from glm4v.broker.connection import Connection
from glm4v.broker.keys import Keys

__all__ = ["Broker", "Connection", "Keys"]
