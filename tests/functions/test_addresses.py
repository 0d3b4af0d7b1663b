from __future__ import annotations

import pytest

from functions._kit.addresses import is_public, site_of

INNER = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255",
    "192.168.0.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "fe80::1", "fec0::1", "fd00::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "2001:db8::1",
]  # fmt: skip
DRESSED = [
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::127.0.0.1", "::10.0.0.1",
    "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1",
    "2001:0:a00:1::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INNER)
def test_an_address_of_no_public_place_is_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", DRESSED)
def test_a_private_ipv4_address_within_ipv6_is_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808"]
)
def test_the_rest_is_public(address: str) -> None:
    assert is_public(address)


def test_an_ipv6_network_counts_as_one_and_an_ipv4_address_too() -> None:
    assert site_of("2001:db8:1:2:3::4") == site_of("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert site_of("2001:db8:1:3::") != site_of("2001:db8:1:2::")
    assert site_of("192.0.2.1") == site_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert site_of("/run/nereid.sock") == "/run/nereid.sock"
