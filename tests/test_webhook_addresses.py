"""Webhooks go to the public internet only: whatever a URL, a name or a redirect says."""

import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import pytest

from greenscale_worker.webhooks.addresses import AddressRefusedError, check_url, is_public
from greenscale_worker.webhooks.events import event_of
from greenscale_worker.webhooks.registry import Endpoint as Hook
from greenscale_worker.webhooks.sender import Sender
from tests.support.endpoint import Endpoint, Reply
from tests.support.hooks import AT, Hooks, hooks_on

EVENT: Final = event_of(None, "batch.completed", "b1", AT)
PUBLIC: Final = ("93.184.215.14", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8")
OTHERS: Final = (
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),  # noqa: S104  refused
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.88.99.1", "198.18.0.1", "203.0.113.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::808:808"),
    *("2002:7f00:1::", "2002:808:808::1", "2001::1", "3fff::1", "100::1", "5f00::1"),
    *("", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", OTHERS)
def test_no_other_address_is_one_in_whatever_it_is_wrapped(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "//example.org/",
        "example.org",
        "https://",
        "https:///path",
        "https://user@example.org/",
        "https://user:password@example.org/",
        "https://:@example.org/",
        "https://example.org/#part",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://example.org/a b",
        "https://example.org/\n",
        "https://example.org/\x00",
        f"https://example.org/{'a' * 2048}",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://１２７.0.0.1/",  # noqa: RUF001  digits of full width
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://[64:ff9b::a9fe:a9fe]/",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_url(url, allow_private=False)


@pytest.mark.parametrize("url", ["https://example.org", "https://example.org:8443/a?b=c", "https://8.8.8.8/"])
def test_a_url_of_the_public_internet_is_accepted(url: str) -> None:
    check_url(url, allow_private=False)


def test_with_the_setting_http_and_private_addresses_are_accepted() -> None:
    check_url("http://127.0.0.1:8080/", allow_private=True)
    with pytest.raises(ValueError, match="expected"):
        check_url("http://user@127.0.0.1:8080/", allow_private=True)


@pytest.fixture
async def hooks(redis_url: str) -> AsyncIterator[Hooks]:
    async with hooks_on(redis_url) as hooks:
        yield hooks


class Names:
    """Resolves every name to the addresses of the test, one list for each question."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, where: tuple[str, int]) -> Any:
        self.asked += 1
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [info for each in addresses for info in socket.getaddrinfo(each, where[1], type=socket.SOCK_STREAM)]


async def what_comes_of(hook: Hook, names: Any = None) -> str:
    async with aclosing(Sender(look_up=names)) as sender:
        return (await sender.send(hook, EVENT)).kind


def named(receiver: Endpoint, host: str) -> str:
    return f"http://{host}:{receiver.port}/"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]", "localhost"],
)
async def test_nothing_is_sent_to_this_machine_however_it_is_spelt(hooks: Hooks, host: str) -> None:
    """Also if such a URL is kept: it may be from a time when that was allowed."""
    async with Endpoint() as receiver:
        hook = await hooks.add(named(receiver, host))
        assert await what_comes_of(hook) in ("refused", "unreachable")
        assert not receiver.received
    if host in ("127.0.0.1", "localhost"):
        assert await what_comes_of(hook) == "refused", "and it is said why"


async def test_a_name_that_stands_for_a_private_address_is_refused(hooks: Hooks) -> None:
    async with Endpoint() as receiver:
        hook = await hooks.add(named(receiver, "inside.example.org"))
        assert await what_comes_of(hook, Names(("127.0.0.1",))) == "refused"
        assert await what_comes_of(hook, Names(("127.0.0.1", "::1", "10.0.0.1"))) == "refused"
        assert not receiver.received


async def test_a_name_that_changes_its_address_is_asked_once_for_each_connection(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is looked up first, private when it is looked up again."""

    def check(address: str, **_: Any) -> None:
        if address != "127.0.0.1":  # stands for the one public address that this test can reach
            raise AddressRefusedError

    monkeypatch.setattr("greenscale_worker.webhooks.sender.check_address", check)
    async with Endpoint(default=Reply(headers={"Connection": "close"})) as receiver:
        hook = await hooks.add(named(receiver, "rebinding.example.org"))
        names = Names(("127.0.0.1",), ("127.0.0.2",))
        async with aclosing(Sender(look_up=names)) as sender:
            assert (await sender.send(hook, EVENT)).delivered
            assert names.asked == 1, "what was checked is what was connected to"
            assert (await sender.send(hook, EVENT)).kind == "refused"
            assert names.asked == 2
        assert len(receiver.received) == 1


async def test_the_address_that_is_connected_to_is_the_one_that_was_checked(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check at the connection holds by itself, were the resolver's to fail."""
    async with Endpoint() as receiver:
        hook = await hooks.add(named(receiver, "inside.example.org"))
        async with aclosing(Sender(look_up=Names(("127.0.0.1",)))) as sender:
            resolver: Any = sender._session.connector._resolver  # type: ignore[union-attr]  # noqa: SLF001  the part
            monkeypatch.setattr(resolver, "_allow_private", True)
            assert (await sender.send(hook, EVENT)).kind == "refused"
        assert not receiver.received


async def test_a_redirect_to_a_private_address_leads_nowhere(hooks: Hooks) -> None:
    async with Endpoint() as inside, Endpoint(Reply(status=307, headers={"Location": inside.url})) as outside:
        hook = await hooks.add(outside)
        assert (await hooks.webhooks.sender.send(hook, EVENT)).kind == "http_3xx"
        assert not inside.received
