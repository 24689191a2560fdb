"""The worker side of a queue in Redis: one grouped script call per step (docs/queue-protocol.md)."""

import asyncio
from contextlib import suppress
from typing import Any, Final, TypeAlias

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.grouping import Grouper
from greenscale_worker.job import Failed, Failure, Job, Outcome, Released, Succeeded, Usage
from greenscale_worker.queues import (
    LIVE_SECONDS,
    PUT_ASIDE,
    Binding,
    Lease,
    Observed,
    QueueOptions,
    Verdict,
    token_seconds,
)
from greenscale_worker.queues.bodies import packed
from greenscale_worker.queues.redis import record_fields
from greenscale_worker.queues.redis.connections import Clients, close
from greenscale_worker.queues.redis.fetcher import Fetcher
from greenscale_worker.queues.redis.flow_words import bounds_of, excess, numbers, overcharged, told, words_of
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.notifier import Notifier
from greenscale_worker.queues.redis.promotion import promotion
from greenscale_worker.queues.redis.replies import read_promoted, read_purge
from greenscale_worker.queues.redis.retrying_client import RetryingClient
from greenscale_worker.queues.redis.script_loader import Script
from greenscale_worker.queues.redis.store import Store
from greenscale_worker.queues.redis.worker_replies import (
    BINDINGS,
    ENDINGS,
    read_beat,
    read_observed,
    read_releases,
    read_verdicts,
    read_words,
    unread,
)
from greenscale_worker.telemetry import Metrics, log

GROUP: Final = 32
RELEASE_GROUP: Final = 1000  # no payloads: a whole worker's jobs go back in one script
GROUP_BYTES: Final = 512 * 1024  # a larger item goes alone: a server that refuses it refuses nothing else
LARGE_TIMES: Final = 5
LARGE_BODY: Final = 256 * 1024
BEAT_GROUP: Final = 200
TRIM_GROUP: Final = 100
TRIM_PORTIONS: Final = 20  # with one heartbeat
PROMOTE_PORTIONS: Final = 20  # likewise

Ending: TypeAlias = tuple[Lease, Succeeded | Failed, bytes]  # and the endpoint's whole answer, compressed, to be kept


class RedisQueue:
    """Implements `queues.Queue` with a list or a stream, and a few keys beside it."""

    def __init__(  # noqa: PLR0913  the parts it is made of
        self,
        clients: Clients,
        scripts: dict[str, Script],
        store: Store,
        keys: Keys,
        options: QueueOptions,
        *,
        owner: str,
        metrics: Metrics,
    ) -> None:
        self._scripts = scripts
        self._head: list[Any] = ["", store.word]
        self._keys = keys
        self._base = keys.base
        self.options = options
        self._owner = owner
        self._metrics = metrics
        self._why: str | None = None
        self._told_why = False
        self._lanes: int | None = None
        self._shut = False
        self._clients = clients
        self._redis = RetryingClient(clients.commands, greet=self.greet, heartbeat=options.heartbeat)
        self._bind = Grouper(self._send_bind, most=GROUP, most_bytes=GROUP_BYTES, size=_payload_size)
        self._settle = Grouper(self._send_settle, most=GROUP, most_bytes=GROUP_BYTES, size=_size)
        self._release = Grouper(self._send_release, most=RELEASE_GROUP, most_bytes=GROUP_BYTES)
        self._retry = Grouper(self._send_retry, most=GROUP, most_bytes=GROUP_BYTES)
        self._tokens = Grouper(self._send_tokens, most=GROUP, most_bytes=GROUP_BYTES, size=_text_size)
        self._fetcher = Fetcher(
            self._redis,
            clients.peek,
            scripts["claim"],
            store=store,
            keys=keys,
            options=options,
            owner=owner,
            hand_back=lambda lease: self.settle(lease, Released("nobody_waits")),
            record_dead=self._record_dead,
            metrics=metrics,
        )
        self._untidy = b""
        channels, patience = (keys.bell, keys.bell_of(owner)), options.heartbeat / 3
        self._notifier = Notifier(clients.notifier, channels, self._heard, patience=patience, say=_say_deaf)

    @property
    def up(self) -> bool:
        """Whether Redis answered the last call."""
        return self._redis.up

    async def lease(self, *, probe: bool = False) -> Lease:
        """Wait for a job and lease it."""
        return await self._fetcher.wait(probe=probe)

    async def bind(self, lease: Lease, job: Job) -> Binding:
        """Bind the job's id to this lease and write its record."""
        binding = await self._bind((lease, job))
        if binding == "run":
            lease.job_id, lease.tenant, lease.keep = job.job_id, job.tenant, job.keep
            lease.attempts = lease.runs + 1
        elif binding != "conflict":
            self._fetcher.forget(lease)
        return binding

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record the outcome and acknowledge the job. Return False if the lease was lost."""
        if isinstance(outcome, Released):
            done = await self._release((lease, outcome))
        else:
            done = await self._settle((lease, outcome, await self._kept(lease, outcome)))
        self._fetcher.forget(lease)
        return done

    async def _kept(self, lease: Lease, outcome: Succeeded | Failed) -> bytes:
        """Return the endpoint's whole answer, compressed, if the job asked for it; else nothing."""
        if lease.keep == "text" or not isinstance(outcome, Succeeded) or not self.options.result_ttl:
            return b""
        body = outcome.output.body
        if len(body) < LARGE_BODY:
            return packed(body)
        return await asyncio.to_thread(packed, body)  # it may take 100 ms, in which nothing else would be done

    async def write_tokens(self, lease: Lease, text: str, *, last: bool = False) -> bool:
        """Show a piece of the text of a job's run. Return False if the lease was lost."""
        if lease.job_id is None or lease.lost is not None:
            return False
        if not self._redis.up:
            raise QueueUnavailableError("Redis does not answer")
        seconds = token_seconds(self.options, last=last)
        return await self._tokens((lease, text, seconds)) if seconds else True

    async def retry(self, lease: Lease, failure: Failure) -> Verdict:
        """Requeue a job whose call failed, or make it a dead letter."""
        verdict = await self._retry((lease, failure))
        self._fetcher.forget(lease)
        return verdict

    async def observe(
        self, seconds: float, limit: int | None = None, *, calm: int = 0, why: str = ""
    ) -> Observed | None:
        """Lease the look at the engine, and store what it found. Raises QueueUnavailableError or ConfigError."""
        args = [*self._head, self._owner, int(1000 * seconds), "" if limit is None else limit]
        args += [calm, record_fields.encoded(why)]
        return await self._redis.once(self._scripts["observe"], self._keys.base, args, read_observed)

    async def beat(self, why: str | None = None, *, lanes: int | None = None, shut: bool = False) -> None:
        """Prolong all leases. While Redis is unavailable, the recovery of the client sends the heartbeat first."""
        self._why, self._lanes, self._shut = why or self._fetcher.why, lanes, shut
        if not self._redis.up:
            return
        try:
            await self.greet()
        except (QueueUnavailableError, ConfigError) as error:
            self._redis.lost(error)

    async def greet(self) -> None:
        """Send one heartbeat. Raises QueueUnavailableError or ConfigError."""
        held = list(self._fetcher.held.values())
        options = self.options
        times = [int(options.lease * 1000), int(options.heartbeat * 1000)]
        head = [*self._head, *times, options.max_crashes, self._owner]
        keys = [*self._keys.base, self._keys.lanes(self._owner), self._keys.room]
        lanes = "" if self._lanes is None else self._lanes
        bounds = [*bounds_of(options), int(self._shut)]
        for start in range(0, len(held) or 1, BEAT_GROUP):
            last = start + BEAT_GROUP >= len(held)
            args = [*head, int(last), int(last and self._fetcher.idle), len(held), options.ledger_days, lanes]
            args += [*bounds, int(options.notices_max_age * 1000), options.notices_max_count]
            for lease in held[start : start + BEAT_GROUP]:
                args += [lease.id, lease.token]
            beat = await self._redis.once(self._scripts["heartbeat"], keys, args, read_beat)
            reaped, claimable, lost, buried, seated, due, dropped = beat
            self._metrics.reaped(reaped)
            if reaped or claimable:
                self._fetcher.ring()
            if seated:
                self._fetcher.sit_down()
            for id_, token, how in lost:
                self._lose(id_, how, token=token)
            await self._record_dead(buried)
            if dropped:
                self._metrics.notices_dropped(dropped)
                log.warning("notices_dropped", count=dropped)
        with suppress(QueueUnavailableError, ConfigError):
            await self._promote(due)
            await self._tell_why(self._why)
            await self._trim()

    async def _promote(self, due: list[bytes]) -> None:
        """Append jobs that have become due to their class, a few portions per heartbeat."""
        live_seconds = LIVE_SECONDS if self.options.result_ttl else 0
        for _ in range(PROMOTE_PORTIONS):
            if not due:
                return
            keys, args = promotion(self._keys, live_seconds, due)
            _, due = await self._redis.once(self._scripts["promote"], keys, [*self._head, *args], read_promoted)

    async def _tell_why(self, why: str | None) -> None:
        """Store why this worker makes no calls, or delete that once it does."""
        if why is None and not self._told_why:
            return
        self._told_why = True  # even if the answer gets lost
        keys = [*self._keys.base, self._keys.why(self._owner)]
        args = [*self._head, int(self.options.lease * 1000), record_fields.encoded(why or "")]
        await self._redis.once(self._scripts["why"], keys, args, unread)
        self._told_why = why is not None

    async def aclose(self) -> None:
        """Hand back jobs no caller took, finish pending calls, and close every connection."""
        await self._fetcher.aclose()
        for group in (self._bind, self._settle, self._release, self._retry, self._tokens):
            await group.aclose()
        try:
            # On an open connection: during a failover, Sentinel may know no master for a new one.
            keys = [*self._keys.base, self._keys.claim(self._owner), self._keys.lanes(self._owner)]
            args = [*self._head, self._owner, int(self.options.heartbeat * 1000)]
            await self._redis.once(self._scripts["unregister"], keys, args, unread)
            await self._tell_why(None)
        except (QueueUnavailableError, ConfigError) as error:
            log.warning("queue_unavailable", error=str(error))
        await self._notifier.aclose()
        await self._redis.aclose()
        await close(self._clients.peek)

    async def _record_dead(self, buried: list[bytes]) -> None:
        """Write the records of jobs that a script has buried. A missed record says `running` until it expires."""
        for id_, job_id, code in zip(buried[::3], buried[1::3], buried[2::3], strict=True):
            facts = {"job_id": job_id.decode() or None, "code": code.decode()}
            if code == b"too_large":
                log.warning("job_buried", **facts)
            else:
                log.error("job_buried", **facts)
            if job_id and self.options.result_ttl:
                keys = [*self._keys.base, self._keys.record(job_id.decode())]
                with suppress(QueueUnavailableError, ConfigError):
                    await self._redis.once(
                        self._scripts["record_dead"], keys, [*self._head, id_, job_id, self.options.result_ttl], unread
                    )

    async def _trim(self) -> None:
        """Delete dead letters that exceed the age or the number allowed; a few batches per heartbeat."""
        options, keys = self.options, self._keys.base
        limits: list[list[Any]] = []
        if options.dead_max_age:
            limits.append(["", "", "", int(options.dead_max_age * 1000), ""])
        if options.dead_max_count:
            limits.append(["", "", "", "", options.dead_max_count])
        if limits:
            tidy = [*self._head, self._untidy, TRIM_GROUP]
            self._untidy = await self._redis.once(self._scripts["tidy"], keys, tidy, bytes)
        trimmed = 0
        for limit in limits:
            more, portions = True, 0
            while more and portions < TRIM_PORTIONS:
                args = [*self._head, *limit, TRIM_GROUP, "trimmed"]
                gone, more = await self._redis.once(self._scripts["purge"], keys, args, read_purge)
                trimmed, portions = trimmed + gone, portions + 1
        if trimmed:
            log.info("dead_letters_trimmed", count=trimmed)

    def _lose(self, id_: str, how: str, *, token: str | None = None) -> None:
        """Drop a lease. A job claimed again since the heartbeat was sent has another token, and is kept."""
        lease = self._fetcher.held.get(id_)
        if lease is not None and token in {None, lease.token}:
            self._fetcher.forget(lease)
            lease.lose("taken" if how == "taken" else "gone")

    def _heard(self, message: bytes) -> None:
        what, _, id_ = message.partition(b" ")
        if what == b"gone":
            self._lose(id_.decode(errors="replace"), "gone")  # other programs may publish here, too
        elif what == b"ready":
            self._fetcher.ring_seat()
        else:
            self._fetcher.ring()

    async def _send_bind(self, items: list[tuple[Lease, Job]]) -> list[Binding]:
        keys, args = [*self._base], [*self._head, LIVE_SECONDS, self.options.result_ttl]
        args += [self._owner, self.options.backend]
        args.append(numbers(excess(lease, job) for lease, job in items))
        for lease, job in items:
            keys += [self._keys.record(job.job_id), self._keys.cancel(job.job_id)]
            fields = record_fields.of_run(job) if self.options.result_ttl else []
            args += [lease.id, lease.token, job.job_id, int(job.notify), len(fields), *fields]
        answers, _ = await self._redis.call(self._scripts["bind"], keys, args, read_words(len(items), BINDINGS))
        _warn_of_foreign_keys(answers, [job.job_id for _, job in items])
        return [BINDINGS[answer] for answer in answers]

    async def _send_settle(self, items: list[Ending]) -> list[bool]:
        keys, args, bodies = [*self._base], [*self._head, self.options.result_ttl], list[str]()
        args += [
            numbers(overcharged(lease, outcome) for lease, outcome, _ in items),
            told([outcome for _, outcome, _ in items]),
        ]
        for lease, outcome, body in items:
            job_id = lease.job_id or ""
            keys += [self._keys.result(job_id), self._keys.record(job_id)]
            if isinstance(outcome, Failed):
                code, message = record_fields.encoded(outcome.code), record_fields.encoded(outcome.message)
                fields = record_fields.of_failure(lease, code, message, outcome.usage)
                spent = record_fields.of_call(lease, outcome.usage)
                args += [lease.id, lease.token, "failed", job_id, code, message, spent, len(fields), *fields]
            elif self.options.result_ttl:
                text, fields = record_fields.encoded(outcome.output.text), record_fields.of_success(outcome)
                if body:
                    bodies.append(self._keys.body(job_id))
                    fields += ["keep", "body"]
                spent = record_fields.of_call(lease, outcome.output.usage)
                args += [lease.id, lease.token, "succeeded", job_id, text, body, spent, len(fields), *fields]
            else:
                spent = record_fields.of_call(lease, outcome.output.usage)
                args += [lease.id, lease.token, "succeeded", job_id, "", "", spent, 0]
        size = _size(items[0])
        times = LARGE_TIMES if size > GROUP_BYTES else None
        try:
            answers, repeated = await self._redis.call(
                self._scripts["settle"], keys + bodies, args, read_words(len(items), ENDINGS), times=times
            )
        except (QueueUnavailableError, ConfigError) as error:
            reason = f"Redis does not take an answer of {size} characters: {error}"
            return await self._send_settle([(items[0][0], Failed("result_too_large", reason), b"")])
        return _done(answers, [lease for lease, _, _ in items], repeated=repeated)

    async def _send_tokens(self, items: list[tuple[Lease, str, int]]) -> list[bool]:
        keys, args = [*self._base], [*self._head]
        for lease, text, seconds in items:
            keys.append(self._keys.tokens(lease.job_id or ""))
            args += [lease.id, lease.token, seconds, record_fields.encoded(text)]
        read = read_words(len(items), ENDINGS)
        return [answer == b"OK" for answer in await self._redis.once(self._scripts["write_tokens"], keys, args, read)]

    async def _send_release(self, items: list[tuple[Lease, Released]]) -> list[bool]:
        keys = self._keys.base
        args = [*self._head, LIVE_SECONDS if self.options.result_ttl else 0]
        args.append(numbers(overcharged(lease, outcome) for lease, outcome in items))
        for lease, outcome in items:
            keys.append(self._keys.record(lease.job_id or ""))
            args += [lease.id, lease.token, int(outcome.delay * 1000)]
            args += [lease.job_id or "", record_fields.encoded(outcome.reason)]
        answers, repeated = await self._redis.call(self._scripts["release"], keys, args, read_releases)
        for (lease, _), (_, drains) in zip(items, answers, strict=True):
            lease.drains = drains
        return _done([word for word, _ in answers], [lease for lease, _ in items], repeated=repeated)

    async def _send_retry(self, items: list[tuple[Lease, Failure]]) -> list[Verdict]:
        keys, ttl = self._keys.base, self.options.result_ttl
        args = [*self._head, LIVE_SECONDS if ttl else 0, ttl, words_of([failure.rates for _, failure in items])]
        for lease, failure in items:
            keys.append(self._keys.record(lease.job_id or ""))
            args += [lease.id, lease.token, lease.job_id or "", record_fields.encoded(failure.code)]
            args += [record_fields.encoded(failure.message), failure.prior, record_fields.encoded(failure.fingerprint)]
            args += [round(failure.used * 1000), round(failure.max_tries * 1000), int(failure.delay * 1000)]
            args += [record_fields.of_call(lease, Usage()), int(failure.hold * 1000)]
        answers, _ = await self._redis.call(self._scripts["retry"], keys, args, read_verdicts)
        _warn_of_foreign_keys([word for _, word, _ in answers], [lease.job_id for lease, _ in items])
        for (lease, _), (verdict, _, due_in) in zip(items, answers, strict=True):
            lease.due_in = due_in if verdict in PUT_ASIDE else None
        return [verdict for verdict, _, _ in answers]


def _say_deaf(why: str) -> None:
    log.warning("queue_unavailable", error=why)


def _done(answers: list[bytes], leases: list[Lease], *, repeated: bool) -> list[bool]:
    """Return whether each item was ended by us. After a lost reply, GONE means that our first call ended it."""
    _warn_of_foreign_keys(answers, [lease.job_id for lease in leases])
    return [answer in {b"OK", b"BADTYPE"} or (repeated and answer == b"GONE") for answer in answers]


def _warn_of_foreign_keys(answers: list[bytes], job_ids: list[Any]) -> None:
    for answer, job_id in zip(answers, job_ids, strict=True):
        if answer == b"BADTYPE":
            log.warning("foreign_key_replaced", job_id=job_id)


def _payload_size(item: tuple[Lease, Job]) -> int:
    return len(item[0].payload)


def _text_size(item: tuple[Lease, str, int]) -> int:
    return len(item[1])


def _size(item: Ending) -> int:
    _, outcome, body = item
    return len(outcome.output.text) + len(body) if isinstance(outcome, Succeeded) else 0
