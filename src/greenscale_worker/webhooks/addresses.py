"""Where webhooks may go: the URLs that are accepted, and the addresses that may be connected to."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from yarl import URL

LONGEST_URL: Final = 2048
GLOBAL: Final = IPv6Network("2000::/3")  # all that is assigned to the internet
NAT64: Final = IPv6Network("64:ff9b::/96")  # an IPv4 address in the last 32 bits
REFUSED: Final = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # of protocols; older Pythons know only a part of it
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # Azure's host: public by its number, but each machine's own
        "2002::/16",  # 6to4, and
        "2001::/32",  # Teredo: an IPv4 address is inside, whose network decides where it goes
        "3fff::/20",  # for documentation; older Pythons do not know it
    )
)


class AddressRefusedError(OSError):
    """The address is not one of the public internet."""


def is_public(text: str) -> bool:
    """Return whether an address is one of the public internet, also where another one is wrapped in it."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        inside = _inside(address)
        if inside is None and address not in GLOBAL:
            return False
        address = inside or address
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved)
        and not any(address in network for network in REFUSED)
    )


def _inside(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that is meant by one of IPv6; None if it means itself."""
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def check_address(text: str, *, allow_private: bool) -> None:
    """Raise AddressRefusedError for an address to which nothing may be sent."""
    if not allow_private and not is_public(text):
        raise AddressRefusedError("the address is not one of the public internet")


def check_url(text: str, *, allow_private: bool) -> None:
    """Raise ValueError, with what is accepted, unless this can be the URL of an endpoint.

    Names are not resolved: what they stand for is checked when a connection is made, each time.
    """
    schemes = ("https", "http") if allow_private else ("https",)
    accepted = f"{' or '.join(f'{scheme}://' for scheme in schemes)} is expected, with a host, and no user or password"
    if len(text) > LONGEST_URL or not text.isprintable() or " " in text:
        raise ValueError(f"{accepted}; at most {LONGEST_URL} characters without spaces")
    try:
        url = URL(text)
        port = url.port
    except ValueError:
        raise ValueError(accepted) from None
    if url.scheme not in schemes or not url.host or not port:
        raise ValueError(accepted)
    if url.raw_user is not None or url.raw_password is not None or url.raw_fragment:
        raise ValueError(f"{accepted}, nor a part behind #")
    if not allow_private and _looks_like_address(url.host) and not is_public(url.host):
        raise ValueError("an address of the public internet is expected (GREENSCALE_WEBHOOKS_ALLOW_PRIVATE)")


def receiver_of(text: str) -> str:
    """Return host and port of an endpoint's URL."""
    url = URL(text)
    return f"{url.host}:{url.port}"


def _looks_like_address(host: str) -> bool:
    """Return whether a resolver would read a host as a number: 127.1, 2130706433, 0x7f.1, ::1."""
    last = host.rstrip(".").rpartition(".")[2].lower()
    return ":" in host or last.isdigit() or last.startswith("0x")
