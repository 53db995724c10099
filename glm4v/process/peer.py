"""Tells the clients of a server apart: by host.

A host is an IPv4 address or, in IPv6, a network of 64 bits, the smallest that a client is given.
"""

from ipaddress import IPv6Address, IPv6Network
from urllib.parse import quote, unquote


def host_of(peer: str) -> str:
    """The host of a peer in gRPC's notation, `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`.

    Empty without one, as for a Unix socket.
    """
    kind, _, address = peer.partition(":")
    host = unquote(address).rpartition(":")[0].strip("[]")
    if kind == "ipv4":
        return host
    if kind != "ipv6":
        return ""
    network = IPv6Network((IPv6Address(host.partition("%")[0]).packed, 64), strict=False)
    return str(network)


def peer_of(address: str, port: int) -> str:
    """A peer in gRPC's notation, from the address and port of its socket."""
    return f"ipv6:{quote(f'[{address}]')}:{port}" if ":" in address else f"ipv4:{address}:{port}"
