"""Looks at the engine: one worker of the fleet reads its metrics every second, and sets the fleet's limit."""

import asyncio
import random
import ssl
from collections.abc import Sequence
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

from greenscale_worker.engine_limit import Aim, next_aim, unseen_aim
from greenscale_worker.engine_metrics import Load, read_load, total
from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues import Queue
from greenscale_worker.telemetry import Metrics, log

EVERY_SECONDS: Final = 1.0
PAGE_SECONDS: Final = 2.0
PAGE_BYTES: Final = 8 * 1024 * 1024
TURN_SECONDS: Final = 4.0  # longer than a look takes; when its worker dies, another one looks after that time
LONGEST_WHY: Final = 300
MOST_REASONS: Final = 10  # that are logged: an address or a number in one of them may change with each look
OK: Final = 200


class EngineLook:
    """Looks at the engine while this worker has the lease of the look (`Queue.observe`), else asks for it now and then.

    `urls` are the metrics of all engines behind the endpoint. `most` is the highest limit to set; None: any. `tls` is
    how to check https.
    """

    def __init__(
        self,
        queue: Queue,
        urls: Sequence[str],
        *,
        most: int | None = None,
        tls: ssl.SSLContext | bool = True,
        metrics: Metrics | None = None,
    ) -> None:
        self._queue = queue
        self._urls = urls
        self._most = most
        self._tls = tls
        self._metrics = metrics or Metrics()
        self._unseen = 0  # looks in a row that saw no engine
        self._said = set[str]()

    async def run(self) -> None:
        """Look until cancelled. Raises nothing: what goes wrong is logged, and the limit stays or falls."""
        clock = asyncio.get_running_loop().time
        async with ClientSession(
            connector=TCPConnector(ssl=self._tls, keepalive_timeout=EVERY_SECONDS * 3),
            timeout=ClientTimeout(total=PAGE_SECONDS),
            cookie_jar=DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,  # a few KiB may unpack to more than a worker has
        ) as session:
            while True:
                began, rest = clock(), EVERY_SECONDS
                try:
                    rest = await self._once(session)
                except (QueueUnavailableError, ConfigError, TimeoutError):
                    pass  # the queue says so itself
                except Exception as error:  # noqa: BLE001  a bug here must not end the looks of the whole fleet
                    self._say(type(error).__name__, None)
                await asyncio.sleep(max(0.0, began + rest - clock()))

    async def _once(self, session: ClientSession) -> float:
        """Look, if this worker gets the lease. Return how many seconds after it began to try again."""
        turn = await self._queue.observe(TURN_SECONDS)
        if turn is None:
            self._unseen = 0
            self._metrics.engine(None, None)
            return random.uniform(0.5, 1.0) * TURN_SECONDS  # noqa: S311  jitter, not a secret
        aim = Aim() if turn.limit is None else Aim(turn.limit, turn.calm)
        looks = await asyncio.gather(*(self._look(session, url) for url in self._urls))
        loads = [look for look in looks if isinstance(look, Load)]
        why = "; ".join(look for look in looks if isinstance(look, str))[:LONGEST_WHY]
        if loads:
            self._unseen, load = 0, total(loads)
            aim = next_aim(aim, load, turn.in_flight, blind=bool(why), most=self._most)
            self._metrics.engine(load.running, load.waiting)
        else:
            self._unseen += 1
            aim = unseen_aim(aim, self._unseen, most=self._most)
            self._metrics.engine(None, None)
        self._say(why, aim.limit)
        await self._queue.observe(TURN_SECONDS, aim.limit, calm=aim.calm, why=why)
        return EVERY_SECONDS

    async def _look(self, session: ClientSession, url: str) -> Load | str:
        """Look at one engine. Return why it cannot be seen, without credentials, if so."""
        try:
            return read_load(await _page(session, url))
        except TimeoutError:
            why = f"no answer within {PAGE_SECONDS:g} s"
        except (OSError, ClientError, ValueError) as error:
            why = str(error) or type(error).__name__
        return f"{URL(url).with_user(None).with_query(None)}: {' '.join(why.split())}"

    def _say(self, why: str, limit: int | None) -> None:
        """Log why a page cannot be read, each reason once, and when all are read again."""
        if not why and self._said:
            log.info("engine_seen", limit=limit)
            self._said.clear()
        elif why and why not in self._said and len(self._said) < MOST_REASONS:
            log.warning("engine_unseen", error=why, limit=limit)
            self._said.add(why)


async def _page(session: ClientSession, url: str) -> str:
    """Read a page. Raises ValueError for another answer than 200, and for a page that is packed or too large.

    A page that is cut off could say less than what waits.
    """
    async with session.get(url, allow_redirects=False) as response:
        if response.status != OK:
            raise ValueError(f"HTTP {response.status} {response.reason}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ValueError("it is compressed, although that was not asked for")
        page = bytearray()
        while more := await response.content.read(PAGE_BYTES):
            page += more
            if len(page) > PAGE_BYTES:
                raise ValueError(f"it has more than {PAGE_BYTES:,} bytes")
        return page.decode(errors="replace")
