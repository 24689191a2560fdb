"""Looks at many queues of one Redis, with few connections and few commands."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any, Final, Literal

from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis import factory
from greenscale_worker.queues.redis.client import RedisQueueClient
from greenscale_worker.queues.redis.connections import close, is_cluster, open_redis
from greenscale_worker.queues.redis.errors import mapped
from greenscale_worker.queues.redis.keys import OF_LISTS, TURNS, Keys
from greenscale_worker.queues.redis.list import ListStore
from greenscale_worker.queues.redis.store import Store
from greenscale_worker.queues.redis.stream import StreamStore

ARRIVALS: Final = (*OF_LISTS, TURNS)  # where a job may arrive, beside the queue itself
KINDS: Final[dict[str, Callable[[QueueOptions], Store]]] = {"list": ListStore, "stream": StreamStore}


class Lookout:
    """The queues of one Redis, which differ from `options` by their names. Raises ConfigError for a wrong URL.

    It connects on its first call.
    """

    def __init__(self, redis: RedisOptions, options: QueueOptions) -> None:
        self._client = open_redis(redis)
        self._cluster = is_cluster(redis)
        self._options = options

    def client(self, kind: Literal["list", "stream"], name: str) -> RedisQueueClient:
        """Return a client of one queue, which shares the connections and need not be closed. Raises ConfigError."""
        options = replace(self._options, name=name)
        store = KINDS[kind](options)
        keys = Keys(options.name, store.own, cluster=self._cluster, public=options.result_prefix)
        return factory.client_of(self._client, store, keys, options)

    async def arrivals(self, queues: Sequence[tuple[Literal["list", "stream"], str]]) -> list[bool]:
        """Return of queues that were empty, by kind and name, which of them a job may have come into.

        As long as there is none, that is one command for all lists, and one for each stream, in one round trip.
        Raises QueueUnavailableError and ConfigError.
        """
        with mapped():
            if not queues or (not self._cluster and not any(await self._answers([queues]))):
                return [False] * len(queues)
            answers = iter(await self._answers([[queue] for queue in queues]))
            return [any([next(answers), kind == "stream" and next(answers)]) for kind, _ in queues]

    async def _answers(self, groups: Sequence[Sequence[tuple[str, str]]]) -> list[Any]:
        """Return of each group how many of its keys there are, and then the lengths of its streams; errors as well."""
        pipe = self._client.pipeline(transaction=False)
        for group in groups:
            pipe.exists(*chain.from_iterable(_places(kind, name) for kind, name in group))
            for kind, name in group:
                if kind == "stream":
                    pipe.xlen(name)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def aclose(self) -> None:
        """Close the connections."""
        await close(self._client)


@lru_cache(10_000)
def _places(kind: str, name: str) -> tuple[str, ...]:
    places = tuple(Keys(name).of(part) for part in ARRIVALS)
    return (name, *places) if kind == "list" else places
