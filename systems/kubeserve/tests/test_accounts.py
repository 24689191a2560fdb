"""Users, passwords, tokens and keys. On SQLite and on PostgreSQL."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
from sqlalchemy import delete, insert, select, update

from conftest import SECRET
from kubeserve.accounts import Accounts, limiter, passwords, service
from kubeserve.accounts.limiter import Limiter
from kubeserve.database import Database
from kubeserve.database.locks import lock
from kubeserve.database.tables import events, keys, users
from kubeserve.database.values import new_id, now
from kubeserve.deployments import Deployments
from kubeserve.domain import Desired, Spec, User
from kubeserve.errors import (
    ConflictError,
    KubeServeError,
    LimitedError,
    NotFoundError,
    UnauthenticatedError,
)
from kubeserve.registry import Registry
from people import make_ready, make_user, outcomes

Connect = Callable[[], Awaitable[Database]]
EMAIL = "anna@example.org"
PASSWORD = "correct horse battery"  # noqa: S105  the test's own


@pytest.fixture
async def anna(accounts: Accounts) -> User:
    return await accounts.register(EMAIL, PASSWORD)


def forged(claims: dict[str, Any], secret: bytes = SECRET, algorithm: str = "HS256") -> str:
    at = int(time.time())
    return jwt.encode({"iat": at, "exp": at + 60} | claims, secret, algorithm)


async def test_who_registers_logs_in_and_is_known_by_the_token(accounts: Accounts) -> None:
    anna = await accounts.register("  Anna@Example.ORG ", PASSWORD)
    assert (anna.email, anna.namespace) == (EMAIL, f"ks-{anna.id}")
    user, token = await accounts.login("ANNA@example.org", PASSWORD)
    assert user == anna
    principal = await accounts.authenticate(token)
    assert (principal.user, principal.key_id, principal.deployment_id) == (anna, None, None)
    claims = jwt.decode(token, SECRET, ["HS256"])
    assert claims["sub"] == anna.id
    assert claims["exp"] - claims["iat"] == 3600


async def test_a_password_is_kept_as_a_hash_and_shown_nowhere(accounts: Accounts, database: Database) -> None:
    await accounts.register(EMAIL, PASSWORD)
    async with database.read() as connection:
        kept = await connection.scalar(select(users.c.password_hash))
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in kept


async def test_the_first_user_is_the_admin_also_if_another_one_comes_at_once(connect: Connect) -> None:
    one, other = Accounts(await connect(), SECRET, token_ttl=60), Accounts(await connect(), SECRET, token_ttl=60)
    first = User(new_id(), "first@example.org", "admin", "ks-first", now())
    async with (await connect()).begin() as connection:  # the first one's registration, before its end
        await lock(connection, "users")
        await connection.execute(insert(users).values(password_hash="", **asdict(first)))
        second = asyncio.create_task(one.register("second@example.org", PASSWORD))
        done, _ = await asyncio.wait({second}, timeout=1)
        assert not done
    assert (await second).role == "user"
    assert (await other.register("third@example.org", PASSWORD)).role == "user"
    for each in (one, other):
        each.close()


async def test_the_first_to_register_is_the_admin(accounts: Accounts) -> None:
    made = [await accounts.register(f"u{number}@example.org", PASSWORD) for number in range(3)]
    assert [user.role for user in made] == ["admin", "user", "user"]


async def test_one_of_two_that_race_for_an_address_gets_it(connect: Connect) -> None:
    both = [Accounts(await connect(), SECRET, token_ttl=60) for _ in range(2)]
    made = await outcomes(each.register(email, PASSWORD) for each in both for email in (EMAIL, EMAIL.upper()))
    assert made == ["ConflictError"] * 3 + ["done"]
    with pytest.raises(ConflictError, match=r"there is a user anna@example.org already"):
        await both[0].register(EMAIL, PASSWORD)
    for each in both:
        each.close()


@pytest.mark.parametrize(
    "email",
    [
        "",
        "anna",
        "@example.org",
        "anna@",
        "anna@host",
        "anna@example.org\0",
        "an na@example.org",
        "anna@example..org",
        "änna@example.org",
        "anna@exаmple.org",  # noqa: RUF001  a Cyrillic letter
        "a@b@example.org",
        f"{'a' * 65}@example.org",
        f"anna@{'a.' * 130}org",
        "a" * 100_000,
        "anna@example.org\nbcc: ben@example.org",
        "\ud800@example.org",
    ],
)
async def test_what_is_no_address_is_refused(accounts: Accounts, email: str) -> None:
    with pytest.raises(KubeServeError, match=r"email: an address such as name@example.org is accepted") as refused:
        await accounts.register(email, PASSWORD)
    assert [fault.field for fault in refused.value.faults] == ["email"]
    with pytest.raises(UnauthenticatedError, match="the e-mail address or the password is wrong"):
        await accounts.login(email, PASSWORD)


@pytest.mark.parametrize(
    ("password", "accepted"),
    [
        ("", "12 to 256 characters"),
        ("elevenchars", "12 to 256 characters"),
        ("a b c d e f " * 22, "12 to 256 characters"),
        ("a" * 10_000_000, "12 to 256 characters"),
        ("nul in it \0 nul", "12 to 256 characters"),
        ("surrogate \ud800 surrogate", "12 to 256 characters"),
        ("abababababababab", "one of at least 5 different characters"),
        ("my anna@example.org", "one without your e-mail address in it"),
    ],
)
async def test_a_password_that_is_guessed_is_refused(accounts: Accounts, password: str, accepted: str) -> None:
    with pytest.raises(KubeServeError, match=f"password: {accepted}") as refused:
        await accounts.register(EMAIL, password)
    assert [fault.field for fault in refused.value.faults] == ["password"]
    assert not password or password not in str(refused.value)


@pytest.mark.parametrize(
    ("chosen", "typed"), [("pa\u0308sswörter sind", "pässwo\u0308rter sind"), ("1234567890 äöü€😀", None)]
)
async def test_a_password_of_any_characters_is_the_same_from_any_keyboard(
    accounts: Accounts, chosen: str, typed: str | None
) -> None:
    await accounts.register(EMAIL, chosen)
    assert await accounts.login(EMAIL, typed or chosen)


async def test_an_unknown_address_and_a_wrong_password_are_answered_alike(
    accounts: Accounts, anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    hasher = accounts._passwords._hasher  # noqa: SLF001  how often it hashes is what time tells
    verify = hasher.verify
    monkeypatch.setattr(type(hasher), "verify", lambda _self, *given: verified.append("once") or verify(*given))
    said = []
    tried = [(anna.email, "a wrong password"), ("ben@example.org", PASSWORD), (anna.email, "\ud800" * 20), ("x", "")]
    for email, password in [*tried, (anna.email, "y" * 10_000_000)]:
        with pytest.raises(UnauthenticatedError) as refused:
            await accounts.login(email, password)
        said.append(str(refused.value))
    assert set(said) == {"the e-mail address or the password is wrong"}
    assert len(verified) == 5


async def test_guesses_at_one_address_are_limited_and_others_still_get_in(accounts: Accounts, anna: User) -> None:
    await accounts.register("ben@example.org", PASSWORD)
    for _ in range(10):
        with pytest.raises(UnauthenticatedError):
            await accounts.login(anna.email, "a wrong password")
    with pytest.raises(LimitedError, match=r"too many attempts: try again in [1-6] s") as refused:
        await accounts.login(anna.email, "a wrong password")
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 6
    assert await accounts.login("ben@example.org", PASSWORD)


async def test_one_who_is_right_is_not_limited(accounts: Accounts, anna: User) -> None:
    for _ in range(15):
        await accounts.login(anna.email, PASSWORD)


async def test_a_caller_is_limited_over_all_addresses(
    accounts: Accounts, anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_callers", Limiter(burst=30, seconds=2.0, clock=lambda: 0.0))  # however slow it is
    calls = [accounts.login(f"u{number}@example.org", PASSWORD, caller="192.0.2.1") for number in range(100)]
    done = await outcomes(calls)
    assert done.count("LimitedError") >= 70
    with pytest.raises(LimitedError):
        await accounts.register("new@example.org", PASSWORD, caller="192.0.2.1")
    assert await accounts.login(anna.email, PASSWORD, caller="192.0.2.2")


async def test_a_flood_of_logins_costs_few_hashes_and_no_memory_and_others_go_on(
    accounts: Accounts, anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = await accounts.login(anna.email, PASSWORD)
    hashed: list[None] = []
    is_right = passwords.Passwords.is_right

    async def counted(*given: Any) -> bool:
        hashed.append(None)
        return await is_right(*given)

    monkeypatch.setattr(passwords.Passwords, "is_right", counted)
    size = len(accounts._guesses._free_at)  # noqa: SLF001  it must not grow
    flood = asyncio.ensure_future(outcomes(accounts.login(f"u{n}@example.org", "wrong") for n in range(10_000)))
    await asyncio.sleep(0)
    assert (await accounts.authenticate(token)).user == anna
    done = await flood
    assert len(done) == 10_000
    assert set(done) == {"LimitedError", "UnauthenticatedError"}
    assert len(hashed) == done.count("UnauthenticatedError") <= passwords.LINE
    assert len(accounts._guesses._free_at) == size  # noqa: SLF001  as above
    assert await accounts.login(anna.email, PASSWORD)


async def test_callers_that_go_away_leave_their_place_in_the_line(accounts: Accounts, anna: User) -> None:
    for round_ in range(3):
        names = [f"u{round_}-{number}@example.org" for number in range(passwords.LINE)]
        tasks = [asyncio.create_task(accounts.login(name, "wrong")) for name in names]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await accounts.login(anna.email, PASSWORD)


def test_a_limit_lets_one_more_in_as_time_goes_and_keys_do_not_share_it() -> None:
    clock = [100.0]
    limit = Limiter(burst=3, seconds=10.0, clock=lambda: clock[0])
    assert [limit.admit("a") for _ in range(5)] == [0, 0, 0, 10, 10]
    assert limit.admit("b") == 0
    clock[0] += 4
    assert limit.admit("a") == 6
    clock[0] += 6
    assert [limit.admit("a"), limit.admit("a")] == [0, 10]
    limit.forgive("a")
    assert limit.admit("a") == 0
    clock[0] += 1000
    assert [limit.admit("a") for _ in range(4)] == [0, 0, 0, 10]
    for number in range(limiter.SLOTS):
        limit.admit(str(number))
    assert limit.admit("a") > 0, "a flood of other keys does not free one"


async def test_a_token_that_is_not_ours_is_refused(accounts: Accounts, anna: User) -> None:
    valid = forged({"sub": anna.id})
    assert (await accounts.authenticate(valid)).user == anna
    header, payload, signature = valid.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    deep = base64.urlsafe_b64encode(b"[" * 2500).decode().rstrip("=")
    digits = base64.urlsafe_b64encode(b'{"alg":"HS256","n":' + b"9" * 2500 + b"}").decode().rstrip("=")
    hostile = {
        "none": f"{none}.{payload}.",
        "none, signed": f"{none}.{payload}.{signature}",
        "another secret": forged({"sub": anna.id}, b"x" * 64),
        "another algorithm": forged({"sub": anna.id}, SECRET, "HS512"),
        "yet another algorithm": forged({"sub": anna.id}, SECRET, "HS384"),
        "expired": forged({"sub": anna.id, "exp": int(time.time()) - 1}),
        "not good yet": forged({"sub": anna.id, "nbf": int(time.time()) + 3600}),
        "without an end": jwt.encode({"sub": anna.id, "iat": 0}, SECRET, "HS256"),
        "without a subject": forged({}),
        "of nobody": forged({"sub": new_id()}),
        "of no id": forged({"sub": "\0' OR 1=1"}),
        "cut": valid[:-2],
        "without a signature": f"{header}.{payload}.",
        "another payload": f"{header}.{payload[:-2]}AA.{signature}",
        "nested deeply": f"{deep}.{payload}.{signature}",
        "long digits": f"{digits}.{payload}.{signature}",
        "empty": "",
        "dots": "...",
        "long": "a." * 100_000,
        "not ASCII": "ä.ö.ü",
        "a key's beginning": "ks_",
        "surrogate": "\ud800",
    }
    for kind, token in hostile.items():
        with pytest.raises(UnauthenticatedError, match="the token or API key is wrong, expired or revoked") as refused:
            await accounts.authenticate(token)
        assert refused.value.status == 401, kind


async def test_a_token_of_a_user_who_is_gone_is_refused(accounts: Accounts, anna: User, database: Database) -> None:
    _, token = await accounts.login(anna.email, PASSWORD)
    _, key = await accounts.create_key(anna.id, "laptop")
    async with database.begin() as connection:
        await connection.execute(delete(users))
    for credential in (token, key):
        with pytest.raises(UnauthenticatedError):
            await accounts.authenticate(credential)


async def test_a_key_lets_its_owner_in_until_it_is_revoked(accounts: Accounts, anna: User, database: Database) -> None:
    key, text = await accounts.create_key(anna.id, "  laptop ")
    assert text.startswith(key.prefix)
    assert await accounts.keys(anna.id) == [key]
    principal = await accounts.authenticate(text)
    assert (principal.user, principal.key_id, principal.deployment_id) == (anna, key.id, None)
    async with database.read() as connection:
        kept = (await connection.execute(select(keys))).one()
    secret = text.rsplit("_", 1)[1]
    assert secret not in str(kept)
    assert kept.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    revoked = await accounts.revoke_key(anna.id, key.id)
    assert revoked.revoked_at is not None
    assert await accounts.revoke_key(anna.id, key.id) == revoked
    with pytest.raises(UnauthenticatedError):
        await accounts.authenticate(text)


async def test_a_limit_is_changed_and_told_once(accounts: Accounts, anna: User, database: Database) -> None:
    key, text = await accounts.create_key(anna.id, "shop", requests_per_minute=5)
    for most in (60, 60, None):
        assert (await accounts.limit_key(anna.id, key.id, most)) == replace(key, requests_per_minute=most)
        assert (await accounts.authenticate(text)).requests_per_minute == most
    async with database.read() as connection:
        found = (await connection.execute(select(events.c.action, events.c.detail).order_by(events.c.id))).all()
    limits = [detail["requests_per_minute"] for action, detail in found if action == "limited"]
    assert limits == [60, None]
    with pytest.raises(NotFoundError, match="no such key"):
        await accounts.limit_key(anna.id, new_id(), 60)


async def test_a_name_is_of_one_key_at_a_time(accounts: Accounts, anna: User, database: Database) -> None:
    made = await outcomes(accounts.create_key(anna.id, "shop") for _ in range(3))
    assert made == ["ConflictError"] * 2 + ["done"]
    (first,) = await accounts.keys(anna.id)
    with pytest.raises(ConflictError, match=f"a key called 'shop' already \\({first.prefix}…\\): revoke it"):
        await accounts.create_key(anna.id, " shop ")
    await accounts.create_key(await make_user(database, "bob"), "shop")
    await accounts.revoke_key(anna.id, first.id)
    await accounts.create_key(anna.id, "shop", expires_at=now() + timedelta(hours=1))
    async with database.begin() as connection:
        await connection.execute(update(keys).values(expires_at=now()))
    await accounts.create_key(anna.id, "shop")


async def test_a_key_that_is_not_one_is_refused(accounts: Accounts, anna: User) -> None:
    _, text = await accounts.create_key(anna.id, "one")
    _, other = await accounts.create_key(anna.id, "other")
    start, secret = text.rsplit("_", 1)
    wrong = [
        text[:-1],
        f"{text}0",
        f"{start}_{'0' * 64}",
        f"{start}_{other.rsplit('_', 1)[1]}",
        text.upper(),
        f"{text}\n",
    ]
    for hostile in [*wrong, f"ks_{'0' * 32}_{secret}", "ks__", f"ks_{'0' * 5000}", f"ks_\0_{secret}"]:
        with pytest.raises(UnauthenticatedError):
            await accounts.authenticate(hostile)


async def test_a_key_ends_when_it_was_said_to(accounts: Accounts, anna: User, database: Database) -> None:
    ends = now() + timedelta(hours=1)
    key, text = await accounts.create_key(anna.id, "short", expires_at=ends)
    assert key.expires_at == ends == (await accounts.keys(anna.id))[0].expires_at
    assert await accounts.authenticate(text)
    async with database.begin() as connection:
        await connection.execute(update(keys).values(expires_at=now()))
    with pytest.raises(UnauthenticatedError):
        await accounts.authenticate(text)
    for past in (now() - timedelta(seconds=1), ends.replace(tzinfo=None)):
        with pytest.raises(KubeServeError, match="expires_at: a time to come, with its zone, is accepted"):
            await accounts.create_key(anna.id, "past", expires_at=past)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59"])
async def test_a_key_ends_at_a_time_that_comes(accounts: Accounts, anna: User, text: str) -> None:
    with pytest.raises(KubeServeError, match="a time to come, with its zone, is accepted"):
        await accounts.create_key(anna.id, "k", None, datetime.fromisoformat(text))


async def test_a_key_of_a_deployment_goes_with_it(
    accounts: Accounts, anna: User, registry: Registry, deployments: Deployments
) -> None:
    model, version = await make_ready(registry, anna.id)
    made = await deployments.create(anna.id, model.id, "live", Spec(version.id))
    _, text = await accounts.create_key(anna.id, "shop", made.id)
    assert (await accounts.authenticate(text)).deployment_id == made.id
    await deployments.want(anna.id, made.id, Desired.DELETED)
    await deployments.remove(made.id)
    with pytest.raises(UnauthenticatedError):
        await accounts.authenticate(text)


@pytest.mark.parametrize("name", ["", "  ", "a" * 101, "a\0", "\ud800"])
async def test_a_key_has_a_name_to_tell_it_by(accounts: Accounts, database: Database, name: str) -> None:
    with pytest.raises(KubeServeError, match=r"name: .* accepted"):
        await accounts.create_key(await make_user(database), name)


async def test_a_user_has_so_many_keys_and_revoked_ones_make_room(
    accounts: Accounts, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_KEYS", 3)
    owner = await make_user(database)
    made = await outcomes(accounts.create_key(owner, f"k{number}") for number in range(5))
    assert made == ["LimitedError"] * 2 + ["done"] * 3
    first = (await accounts.keys(owner))[0]
    await accounts.revoke_key(owner, first.id)
    await accounts.create_key(owner, "more")
    assert first.id not in [key.id for key in await accounts.keys(owner)]


async def test_a_key_of_nobody_is_not_found(accounts: Accounts, anna: User) -> None:
    for key_id in (new_id(), "", "\0"):
        with pytest.raises(NotFoundError, match="there is no such key"):
            await accounts.revoke_key(anna.id, key_id)


def test_a_secret_that_is_guessed_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Accounts(database, b"short", token_ttl=60)


async def test_a_clock_that_is_set_back_logs_nobody_out(accounts: Accounts, database: Database) -> None:
    user_id, at = await make_user(database), int(time.time())
    token = forged({"sub": user_id, "iat": at + 3600, "exp": at + 7200})
    assert (await accounts.authenticate(token)).user.id == user_id
    with pytest.raises(UnauthenticatedError):
        await accounts.authenticate(forged({"sub": user_id, "iat": at - 7200, "exp": at - 3600}))
