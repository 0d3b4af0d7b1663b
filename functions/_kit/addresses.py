"""Addresses of the network: which are everybody's, and who shares one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

SITE_BITS = 64
"""One customer of IPv6 has so many bits at least, with every address in them (RFC 6177)."""
NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
"""RFC 6052 and RFC 8215: the last 32 bits are an IPv4 address that a router calls."""
COMPATIBLE = IPv6Network("::/96")
"""RFC 4291, section 2.5.5.1: IPv4 in the last 32 bits, in no use any more."""


def is_public(text: str) -> bool:
    """Whether the address `text` is one of the public internet, however it is dressed up.

    False for private, loopback, link-local (cloud metadata), shared (CGNAT), reserved, multicast
    and unspecified ones, and for IPv6 that leads to such an IPv4. Raises ValueError for a name.
    """
    address = ip_address(text)
    if not _global(address):
        return False
    return not isinstance(address, IPv6Address) or all(map(_global, _inside(address)))


def _global(address: IPv4Address | IPv6Address) -> bool:
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not address.is_multicast and not site_local


def _inside(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 one carries: mapped, 6to4, Teredo, NAT64."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in COMPATIBLE or any(address in network for network in NAT64):
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]


def site_of(text: str) -> str:
    """What is counted as one address: an IPv4 address, or an IPv6 network of 64 bits.

    A text that is no address, such as the path of a socket, is its own.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if isinstance(address, IPv4Address):
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), SITE_BITS), strict=False))
