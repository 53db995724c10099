"""Callers are told apart by host."""

import pytest

from glm4v.process.peer import host_of


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:40000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:a:b:c:d%5D:40000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::1]:40000", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:40000", "fe80::/64"),
        ("unix:", ""),
        ("unix:/run/glm4v.sock", ""),
        ("", ""),
    ],
)
def test_a_host_is_an_address_or_what_a_caller_is_given(peer: str, host: str) -> None:
    assert host_of(peer) == host
