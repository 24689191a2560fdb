"""The settings of a queue and of its server."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """The address of Redis and how to authenticate.

    `url` is `redis://host:port/db`, `rediss://…` (TLS), `redis+sentinel://host:port,host:port/master/db` or
    `redis+cluster://host:port` (`rediss+sentinel`, `rediss+cluster` with TLS). `ca_file`, `cert_file` and `key_file`
    are PEM files. `password_file`, `sentinel_password_file` and `url_file` are read again for each connection; they
    hold a password, or the URL with one. Sentinels that require one get that of Redis unless they have their own.
    """

    url: str = "redis://127.0.0.1:6379/0"
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    url_file: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    sentinel_password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """The settings of a queue. Times are seconds.

    `take_from` is the oldest end of the list: `right` for producers that LPUSH, `left` for RPUSH. `group` is the
    consumer group of a stream.
    Results and final records last `result_ttl`; 0 writes neither. `result_prefix` begins the names of both, so that
    two queues in one database may have jobs with the same id. A heartbeat is due every `lease / 5`.
    Dead letters older than `dead_max_age`, and the oldest beyond `dead_max_count`, are deleted; 0 means no limit.
    So are notices that nobody acknowledges, by `notices_max_age` and `notices_max_count`, of which neither may be 0.
    The ledger is kept for `ledger_days`; 0: no ledger is kept.
    `limit` is how many calls the fleet may have open, `requests_per_minute` and `tokens_per_minute` how many it may
    begin and how many tokens they may cost; None: no bound. With the limit `engine` it is what `observe` has found,
    `limit_most` at most.
    """

    name: str = "jobs"
    take_from: Literal["right", "left"] = "right"
    group: str = "greenscale"
    lease: float = 15.0
    max_crashes: int = 4
    result_ttl: int = 3600
    result_prefix: str = ""
    dead_max_age: float = 0.0
    dead_max_count: int = 0
    notices_max_age: float = 86_400.0
    notices_max_count: int = 100_000
    ledger_days: int = 8
    limit: int | Literal["engine"] | None = None
    limit_most: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    backend: str = ""

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats."""
        return self.lease / 5
