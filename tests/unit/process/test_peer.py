"""Callers are told apart by name, otherwise by host."""

import pytest

from glm4v.process.peer import Peer


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
    assert Peer(peer).host == Peer(peer).client == host


def test_a_caller_with_a_name_is_one_client_on_all_hosts() -> None:
    here, there = Peer("ipv4:192.0.2.7:1", "ann"), Peer("ipv4:192.0.2.8:1", "ann")
    assert here.client == there.client != Peer("ipv4:192.0.2.7:1", "bob").client
    assert Peer("ipv4:192.0.2.7:1", "192.0.2.7").client != Peer("ipv4:192.0.2.7:1").client
