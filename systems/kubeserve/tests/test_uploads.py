"""Uploads: what is kept, what is refused, and that nothing is mixed; on the real registry and both stores."""

import asyncio
import hashlib
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.eventually import eventually

from kubeserve.accounts import Accounts
from kubeserve.database import Database, open_database
from kubeserve.domain import LARGEST_MODEL, LARGEST_REQUIREMENTS, Version, VersionState
from kubeserve.errors import (
    ConflictError,
    KubeServeError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnprocessableError,
)
from kubeserve.objects import Objects, open_objects
from kubeserve.registry import Registry
from kubeserve.uploads import OffsetError, Uploads
from people import outcomes

MIB = 1024 * 1024
NAME = "model.pkl"


@dataclass
class House:
    """What a test needs, and a version that is a draft."""

    uploads: Uploads
    registry: Registry
    objects: Objects
    staging: Path
    owner: str
    model: str
    version: Version

    @property
    def place(self) -> tuple[str, str, str]:
        return self.owner, self.version.id, NAME

    def again(self) -> "House":
        """The same after a restart."""
        uploads = Uploads(self.registry, self.objects, self.staging)
        return House(uploads, self.registry, self.objects, self.staging, self.owner, self.model, self.version)

    def files(self) -> set[str]:
        folder = self.staging / self.version.id
        return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_database(f"sqlite:///{tmp_path}/db.sqlite")
    await database.migrate()
    yield database
    await database.aclose()


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> House:
    accounts = Accounts(database, b"s" * 32, token_ttl=60)
    owner = (await accounts.register("a@example.org", "correct horse battery")).id
    accounts.close()
    registry = Registry(database)
    model = await registry.create_model(owner, "churn")
    version = await registry.create_version(owner, model.id, "v1")
    objects = open_objects(str(tmp_path / "objects"))
    staging = tmp_path / "staging"
    uploads = Uploads(registry, objects, staging, patience=0.5)
    return House(uploads, registry, objects, staging, owner, model.id, version)


async def come(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def break_off(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    raise ConnectionResetError("the client has gone")


class Feed:
    """A client that sends when told to."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.queue.get():
            yield chunk


async def never() -> AsyncIterator[bytes]:
    pytest.fail("nothing may be read")
    yield b""


async def test_from_the_first_byte_to_scanning(house: House) -> None:
    content = os.urandom(3 * MIB)

    received = await house.uploads.receive(*house.place, come(content[:1], content[1:]), total=len(content))
    assert (received.size, received.complete) == (len(content), True)
    assert (await house.registry.version(house.owner, house.version.id)).state is VersionState.RECEIVING
    await house.uploads.receive(house.owner, house.version.id, "requirements.txt", come(b"numpy\n"))
    version = await house.uploads.finish(house.owner, house.version.id)

    prefix = f"models/{house.owner}/churn/v1/"
    assert version.state is VersionState.SCANNING
    assert version.s3_path == prefix
    assert [(file.name, file.size, file.key) for file in version.files] == [
        (NAME, len(content), prefix + NAME),
        ("requirements.txt", 6, prefix + "requirements.txt"),
    ]
    assert version.files[0].sha256 == hashlib.sha256(content).hexdigest()
    assert [step.name for step in version.steps] == ["received", "hashed"]
    assert await house.objects.read(prefix + NAME, LARGEST_MODEL) == content
    assert not list(house.staging.iterdir())
    assert await house.uploads.finish(house.owner, house.version.id) == version
    assert await house.uploads.offset(*house.place) == len(content)


async def test_a_version_that_is_finished_takes_no_files(house: House) -> None:
    await house.uploads.receive(*house.place, come(b"x"))
    await house.uploads.finish(house.owner, house.version.id)

    with pytest.raises(ConflictError, match="no more files"):
        await house.uploads.receive(*house.place, never())
    with pytest.raises(ConflictError, match="no more files"):
        await house.uploads.remove(*house.place)


async def test_who_goes_away_goes_on_where_it_ended(house: House) -> None:
    content = os.urandom(2 * MIB + 5)

    with pytest.raises(ConnectionResetError):
        await house.uploads.receive(*house.place, break_off(content[: MIB + 7]), total=len(content))
    house = house.again()
    assert await house.uploads.offset(*house.place) == MIB + 7
    with pytest.raises(OffsetError) as wrong:
        await house.uploads.receive(*house.place, never(), offset=MIB, total=len(content))
    assert wrong.value.offset == MIB + 7
    assert wrong.value.status == 409
    received = await house.uploads.receive(*house.place, come(content[MIB + 7 :]), offset=MIB + 7, total=len(content))
    assert received.complete
    with pytest.raises(OffsetError) as wrong:
        await house.uploads.receive(*house.place, never(), offset=MIB + 7, total=len(content))
    assert wrong.value.offset == len(content)
    version = await house.uploads.finish(house.owner, house.version.id)
    assert version.files[0].sha256 == hashlib.sha256(content).hexdigest()


async def test_a_cancelled_call_keeps_what_has_come(house: House) -> None:
    feed = Feed()
    content = os.urandom(5 * MIB)
    call = asyncio.create_task(house.uploads.receive(*house.place, aiter(feed), total=len(content)))
    for start in range(0, 3 * MIB, 64 * 1024):
        feed.queue.put_nowait(content[start : start + 64 * 1024])
    await eventually(feed.queue.empty)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert await house.uploads.offset(*house.place) == 3 * MIB
    await house.uploads.receive(*house.place, come(content[3 * MIB :]), offset=3 * MIB)
    version = await house.uploads.finish(house.owner, house.version.id)
    assert version.files[0].sha256 == hashlib.sha256(content).hexdigest()


async def test_a_silent_client_lets_go(house: House) -> None:
    feed = Feed()
    feed.queue.put_nowait(b"123")

    with pytest.raises(KubeServeError, match="nothing came"):
        await house.uploads.receive(*house.place, aiter(feed), total=10)
    assert await house.uploads.offset(*house.place) == 3


async def test_of_two_at_once_one_is_refused(house: House) -> None:
    house = house.again()
    feed = Feed()
    first = asyncio.create_task(house.uploads.receive(*house.place, aiter(feed), total=4))
    feed.queue.put_nowait(b"ab")
    await eventually(feed.queue.empty)

    for offset in (0, 2):
        with pytest.raises(ConflictError) as refused:
            await house.again().uploads.receive(*house.place, never(), offset=offset, total=4)
        assert refused.value.code == "busy"
    for call in (house.uploads.finish(house.owner, house.version.id), house.uploads.remove(*house.place)):
        with pytest.raises(ConflictError) as refused:
            await call
        assert refused.value.code == "busy"
    await house.uploads.receive(house.owner, house.version.id, "requirements.txt", come(b"numpy"))  # beside it
    feed.queue.put_nowait(b"cd")
    feed.queue.put_nowait(b"")
    assert (await first).complete
    version = await house.uploads.finish(house.owner, house.version.id)
    assert await house.objects.read(version.files[0].key, 10) == b"abcd"


async def test_parts_of_different_files_are_not_joined(house: House) -> None:
    await house.uploads.receive(*house.place, come(b"aa"), total=4, identity="A")

    for total, identity in ((4, "B"), (5, "A"), (4, "")):
        with pytest.raises(ConflictError) as refused:
            await house.uploads.receive(*house.place, never(), offset=2, total=total, identity=identity)
        assert refused.value.code == "other"
    await house.uploads.receive(*house.place, come(b"bb"), total=4, identity="B")  # anew
    with pytest.raises(ConflictError) as refused:
        await house.uploads.receive(*house.place, never(), offset=2, total=4, identity="A")
    assert refused.value.code == "other"
    assert (await house.uploads.receive(*house.place, come(b"BB"), offset=2, identity="B")).complete
    version = await house.uploads.finish(house.owner, house.version.id)
    assert await house.objects.read(version.files[0].key, 10) == b"bbBB"


async def test_a_whole_file_may_begin_anew(house: House) -> None:
    await house.uploads.receive(*house.place, come(b"wrong one"))
    assert not (await house.uploads.receive(*house.place, come(b"ri"), total=5)).complete
    with pytest.raises(ConflictError, match="2 of 5 bytes"):
        await house.uploads.finish(house.owner, house.version.id)
    await house.uploads.receive(*house.place, come(b"ght"), offset=2, total=5)

    version = await house.uploads.finish(house.owner, house.version.id)
    assert await house.objects.read(version.files[0].key, 10) == b"right"


@pytest.mark.parametrize(("name", "largest"), [(NAME, LARGEST_MODEL), ("requirements.txt", LARGEST_REQUIREMENTS)])
async def test_one_byte_too_many_is_refused_before_it_is_read(house: House, name: str, largest: int) -> None:
    with pytest.raises(TooLargeError, match=f"{largest} bytes"):
        await house.uploads.receive(house.owner, house.version.id, name, never(), total=largest + 1)
    assert house.files() == set()


async def test_one_byte_too_many_that_nobody_announced(house: House) -> None:
    place = (house.owner, house.version.id, "requirements.txt")
    with pytest.raises(TooLargeError):
        await house.uploads.receive(*place, come(bytes(LARGEST_REQUIREMENTS), b"x"))
    assert house.files() == set()
    assert (await house.uploads.receive(*place, come(bytes(LARGEST_REQUIREMENTS)))).complete


async def test_more_than_announced_changes_nothing(house: House) -> None:
    await house.uploads.receive(*house.place, come(b"12"), total=4)

    with pytest.raises(KubeServeError, match="the 4 that were announced"):
        await house.uploads.receive(*house.place, come(b"34", b"5"), offset=2, total=4)
    assert await house.uploads.offset(*house.place) == 2
    for offset, total in ((-1, 4), (5, 4)):
        with pytest.raises(KubeServeError, match="range"):
            await house.uploads.receive(*house.place, never(), offset=offset, total=total)


@pytest.mark.parametrize(
    "name",
    ["", ".pkl", "../model.pkl", "a/model.pkl", "a\\model.pkl", "model\n.pkl", "mod\u202eel.pkl", "m" * 180 + ".pkl"],
)
async def test_names_with_paths_or_worse(house: House, name: str) -> None:
    with pytest.raises(KubeServeError) as refused:
        await house.uploads.receive(house.owner, house.version.id, name, never())
    assert refused.value.code == "bad_name"
    assert not list(house.staging.iterdir())


async def test_a_sample_has_at_most_64_kib(house: House) -> None:
    place = (house.owner, house.version.id, "sample.json")
    with pytest.raises(TooLargeError, match="at most 64 KiB"):
        await house.uploads.receive(*place, never(), total=64 * 1024 + 1)
    assert (await house.uploads.receive(*place, come(b"[[1]]"), total=5)).complete


@pytest.mark.parametrize("name", ["model.exe", "model", "model.pkl.gz", "Requirements.txt", "model.pt", "x.part"])
async def test_a_suffix_that_is_not_accepted_names_those_that_are(house: House, name: str) -> None:
    with pytest.raises(
        KubeServeError, match=r"\.joblib, \.pkl, \.pickle, \.skops, \.onnx, and requirements\.txt and sample\.json"
    ):
        await house.uploads.receive(house.owner, house.version.id, name, never())


async def test_a_version_has_one_model(house: House) -> None:
    await house.uploads.receive(house.owner, house.version.id, "requirements.txt", come(b"numpy"))
    with pytest.raises(ConflictError, match="exactly one model"):
        await house.uploads.finish(house.owner, house.version.id)
    await house.uploads.receive(*house.place, come(b"x"), total=2)
    with pytest.raises(ConflictError, match=r"'model\.pkl'"):
        await house.uploads.receive(house.owner, house.version.id, "other.onnx", never())
    await house.uploads.remove(*house.place)
    with pytest.raises(NotFoundError):
        await house.uploads.remove(*house.place)
    await house.uploads.receive(house.owner, house.version.id, "other.onnx", come(b"x"))

    version = await house.uploads.finish(house.owner, house.version.id)
    assert [file.name for file in version.files] == ["other.onnx", "requirements.txt"]


async def test_what_sent_nothing_stands_in_nobodys_way(house: House) -> None:
    with pytest.raises(ConnectionResetError):
        await house.uploads.receive(house.owner, house.version.id, "wrong.pkl", break_off(), total=5)
    with pytest.raises(OffsetError):
        await house.uploads.receive(house.owner, house.version.id, "wrong.pkl", never(), offset=3, total=5)

    assert (await house.uploads.receive(*house.place, come(b"x"))).complete


async def test_uploads_at_once_are_bounded(database: Database, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeserve.uploads.MOST_COMING", 2)
    drafts = [await house.registry.create_version(house.owner, house.model, f"t{number}") for number in range(8)]
    both = [house.uploads, house.again().uploads]
    calls = [both[at % 2].receive(house.owner, draft.id, NAME, come(b"x")) for at, draft in enumerate(drafts)]
    assert await outcomes(calls) == ["LimitedError"] * 6 + ["done"] * 2
    assert (await Registry(database).stored(house.owner))[1] == 2


async def test_a_version_that_is_proved_again_takes_no_files_meanwhile(house: House) -> None:
    await house.uploads.receive(*house.place, come(b"first"))
    await house.uploads.finish(house.owner, house.version.id)
    failed = await house.registry.set_state(
        house.version.id, VersionState.FAILED, "away", expected={VersionState.SCANNING}
    )
    calls = [
        house.registry.set_state(failed.id, VersionState.SCANNING, "again", expected={VersionState.FAILED}),
        *(each.uploads.receive(*house.place, come(b"other")) for each in (house, house.again())),
    ]
    done = await outcomes(calls)
    now = await house.registry.version(house.owner, failed.id)
    content = await house.objects.read(now.files[0].key, 10)
    assert content == b"first", "what is proved is what was sent"
    if now.state is VersionState.SCANNING:
        assert done == ["ConflictError", "ConflictError", "done"]
        assert house.files() == set()
    else:
        assert (now.state, house.files()) == (VersionState.RECEIVING, {NAME})


async def test_what_is_anothers_is_not_there(house: House) -> None:
    stranger = "00000000-0000-4000-8000-000000000000"
    calls = [
        house.uploads.receive(stranger, house.version.id, NAME, never()),
        house.uploads.offset(stranger, house.version.id, NAME),
        house.uploads.received(stranger, house.version.id),
        house.uploads.finish(stranger, house.version.id),
        house.uploads.remove(stranger, house.version.id, NAME),
        house.uploads.receive(house.owner, "../../etc", NAME, never()),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            await call
    assert not list(house.staging.iterdir())


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file grows above 2 MiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_disk_that_fills_keeps_what_has_come(house: House, request: pytest.FixtureRequest) -> None:
    content = os.urandom(4 * MIB)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    request.getfixturevalue("small_disk")

    with pytest.raises(UnavailableError, match=f"full: {2 * MIB} bytes are kept"):
        await house.uploads.receive(*house.place, come(content[: MIB + 9], content[MIB + 9 :]), total=len(content))
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    offset = await house.uploads.offset(*house.place)
    assert offset == 2 * MIB
    await house.uploads.receive(*house.place, come(content[offset:]), offset=offset, total=len(content))
    version = await house.uploads.finish(house.owner, house.version.id)
    assert version.files[0].sha256 == hashlib.sha256(content).hexdigest()


async def test_no_room_is_said_before_anything_is_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 99}))

    with pytest.raises(UnavailableError, match="room for 99"):
        await house.uploads.receive(*house.place, never(), total=100)


async def test_another_hash_than_expected(house: House) -> None:
    await house.uploads.receive(*house.place, come(b"damaged"))

    with pytest.raises(UnprocessableError, match="send it again"):
        await house.uploads.finish(house.owner, house.version.id, {NAME: hashlib.sha256(b"sound").hexdigest()})
    assert await house.uploads.offset(*house.place) == 0
    await house.uploads.receive(*house.place, come(b"sound"))
    expected = {NAME: hashlib.sha256(b"sound").hexdigest().upper()}
    assert (await house.uploads.finish(house.owner, house.version.id, expected)).state is VersionState.SCANNING


@pytest.mark.parametrize("step", ["objects.put_file", "registry.record_files", "registry.set_state"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_any_step_finish_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    """Also if the file is another one the next time."""
    await house.uploads.receive(*house.place, come(b"first"))
    part, method = step.split(".")
    real = getattr(getattr(house, part), method)

    class Broken(BaseException):
        pass

    async def dies(*args: object, **kwargs: object) -> object:
        if when == "after":
            await real(*args, **kwargs)
        raise Broken

    with monkeypatch.context() as patched:
        patched.setattr(getattr(house, part), method, dies)
        with pytest.raises(Broken):
            await house.uploads.finish(house.owner, house.version.id)

    house = house.again()
    over = when == "after" and method == "set_state"
    if not over:
        await house.uploads.remove(*house.place)
        await house.uploads.receive(house.owner, house.version.id, "second.pkl", come(b"second"))
    version = await house.uploads.finish(house.owner, house.version.id)
    assert version.state is VersionState.SCANNING
    assert [file.name for file in version.files] == [NAME if over else "second.pkl"]
    assert list(await house.objects.list("models")) == [file.key for file in version.files]
    assert await house.objects.read(version.files[0].key, 10) == (b"first" if over else b"second")
    assert not list(house.staging.iterdir())


async def test_another_file_of_the_same_name_after_a_kill(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.uploads.receive(*house.place, come(b"first"))
    with monkeypatch.context() as patched:
        patched.delattr(house.registry.__class__, "record_files")
        with pytest.raises(AttributeError):
            await house.uploads.finish(house.owner, house.version.id)
    await house.uploads.receive(*house.place, come(b"second"))

    version = await house.uploads.finish(house.owner, house.version.id)
    assert await house.objects.read(version.files[0].key, 10) == b"second"


async def test_objects_that_are_away_keep_the_upload(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise UnavailableError("away")

    await house.uploads.receive(*house.place, come(b"x"))
    with monkeypatch.context() as patched:
        patched.setattr(house.objects, "put_file", away)
        with pytest.raises(UnavailableError):
            await house.uploads.finish(house.owner, house.version.id)
    assert (await house.uploads.finish(house.owner, house.version.id)).state is VersionState.SCANNING


async def test_what_is_abandoned_is_swept(house: House) -> None:
    feed = Feed()
    await house.uploads.receive(*house.place, come(b"x"), total=2)
    other = await house.registry.create_version(house.owner, house.model, "v2")
    running = asyncio.create_task(house.again().uploads.receive(house.owner, other.id, NAME, aiter(feed), total=3))
    feed.queue.put_nowait(b"y")
    await eventually(feed.queue.empty)
    assert await house.uploads.sweep(60) == 0

    old = time.time() - 120
    for path in house.staging.rglob("*"):
        os.utime(path, (old, old))
    assert await house.uploads.sweep(60) == 1
    assert [path.name for path in house.staging.iterdir()] == [other.id]
    assert await house.uploads.offset(*house.place) == 0
    feed.queue.put_nowait(b"zz")
    feed.queue.put_nowait(b"")
    assert (await running).complete


async def test_a_deleted_version_leaves_nothing(house: House) -> None:
    feed = Feed()
    running = asyncio.create_task(house.again().uploads.receive(*house.place, aiter(feed), total=2))
    feed.queue.put_nowait(b"y")
    await eventually(feed.queue.empty)
    await house.registry.delete_version(house.owner, house.version.id)
    house.uploads.discard(house.version.id)
    feed.queue.put_nowait(b"y")
    feed.queue.put_nowait(b"")

    with pytest.raises(NotFoundError):
        await running
    assert not list(house.staging.iterdir())


async def test_nobody_else_reads_what_is_on_its_way(house: House) -> None:
    await house.uploads.receive(*house.place, come(b"x"), total=2)

    modes = {path.stat().st_mode & 0o777 for path in (house.staging, house.staging / house.version.id)}
    assert modes == {0o700}
    assert {path.stat().st_mode & 0o777 for path in house.staging.rglob("*.part")} == {0o600}
