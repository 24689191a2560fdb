"""Asks Sentinels for the address of the master; an error says in one line why none knew it."""

from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, InvalidResponse, NoPermissionError, RedisError, ResponseError

LONGEST_FAULT: Final = 160
REFUSED: Final = (AuthenticationError, NoPermissionError)


class OnDemand(CredentialProvider):
    """Credentials that are sent only once a Sentinel has required them: one without a password refuses them."""

    def __init__(self, credentials: CredentialProvider, *, wanted: bool) -> None:
        self.wanted = wanted
        self._credentials = credentials

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return the credentials, or `()`."""
        return self.get_credentials()

    def get_credentials(self) -> tuple[str, str]:
        """Return the same, without await: for redis-py before 5.3."""
        return self._credentials.get_credentials() if self.wanted else ()  # type: ignore[return-value]


class Sentinels(Sentinel):
    """The Sentinels of one master. `open_one` makes a client for one of them, which uses `credentials`.

    Raises AuthenticationError if one requires another password, ResponseError if one is no Sentinel, and
    MasterNotFoundError if none knows a master that is up.
    """

    def __init__(
        self, hosts: list[tuple[str, int]], open_one: Callable[[str, int], Any], credentials: OnDemand
    ) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]  # redis-py has no types there
        self.sentinels = [open_one(host, port) for host, port in hosts]
        self._credentials = credentials

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Ask one after the other, beginning with the last that knew it."""
        faults: list[str] = []
        refused = strange = False
        for number, sentinel in enumerate(self.sentinels):
            try:
                masters = await self._masters(sentinel)
            except (RedisError, OSError) as error:
                refused = refused or isinstance(error, REFUSED)
                strange = strange or isinstance(error, (ResponseError, InvalidResponse))
                faults.append(f"{_name(sentinel)}: {str(error).partition(', with args')[0]}"[:LONGEST_FAULT])
            else:
                state = masters.get(service_name)
                if state is not None and self.check_master_state(state, service_name):
                    self.sentinels[0], self.sentinels[number] = sentinel, self.sentinels[0]
                    return state["ip"], state["port"]
                known = ", ".join(sorted(masters)) or "none"
                faults.append(f"{_name(sentinel)}: it is down" if state else f"{_name(sentinel)}: it knows {known}")
        what = f"the Sentinels name no master {service_name!r} ({'; '.join(faults)})"
        if refused:
            raise AuthenticationError(f"{what}; check REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD")
        if strange:
            raise ResponseError(f"{what}; the addresses of Sentinels are expected in REDIS_URL")
        raise MasterNotFoundError(what)

    async def _masters(self, sentinel: Any) -> Any:
        try:
            return await sentinel.sentinel_masters()
        except AuthenticationError:
            if self._credentials.wanted:
                raise
            self._credentials.wanted = True
        try:
            await sentinel.connection_pool.disconnect()
            return await sentinel.sentinel_masters()
        except BaseException:
            self._credentials.wanted = False
            raise


def _name(sentinel: Any) -> str:
    where = sentinel.connection_pool.connection_kwargs
    return f"{where['host']}:{where['port']}"
