"""The contract of stores of files, for a directory and for a real S3 server."""

import asyncio
import os
import resource
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.s3_server import S3Server
from harness.tcp_proxy import TcpProxy

from kubeserve.errors import ConflictError, KubeServeError, NotFoundError, TooLargeError, UnavailableError
from kubeserve.objects import Digest, Objects, open_objects

MIB = 1024 * 1024
TIMEOUT = 1.0  # seconds
KEY = "models/user/name/v1/model.pkl"


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a store is that nobody else has."""
    if request.param == "directory":
        return str(tmp_path / "objects")
    for name, value in request.getfixturevalue("s3_server").environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://models/{uuid.uuid4()}"


@pytest.fixture
def objects(url: str) -> Objects:
    return open_objects(url)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of more than two parts, and no whole number of them."""
    path = tmp_path / "big"
    path.write_bytes(os.urandom(12 * MIB + 7))
    return path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_file_comes_back_as_it_was(objects: Objects, big: Path, tmp_path: Path) -> None:
    digest = await objects.put_file(KEY, big)

    assert digest == Digest.of(big.read_bytes())
    assert await objects.fetch(KEY, tmp_path / "back") == digest
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) - {"objects"} == {"back", "big"}


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_small_ones_too(objects: Objects, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "small").write_bytes(content)

    assert await objects.put_file("a", tmp_path / "small") == await objects.put_bytes("b", content)
    assert [await objects.read(key, 1) for key in "ab"] == [content, content]
    await objects.fetch("a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


async def test_a_key_is_written_once(objects: Objects, big: Path, tmp_path: Path) -> None:
    digest = await objects.put_file(KEY, big)
    other = tmp_path / "other"
    other.write_bytes(bytes(big.stat().st_size))

    assert await objects.put_file(KEY, big) == digest
    assert await objects.put_bytes(KEY, big.read_bytes()) == digest
    with pytest.raises(ConflictError, match="other content"):
        await objects.put_file(KEY, other)
    with pytest.raises(ConflictError, match="other content"):
        await objects.put_bytes(KEY, b"short")
    assert await objects.fetch(KEY, tmp_path / "back") == digest


async def test_of_writers_at_once_one_wins(objects: Objects, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number % 2]) * (6 * MIB))

    ends = await asyncio.gather(*(objects.put_file(KEY, path) for path in paths), return_exceptions=True)

    won = [end for end in ends if isinstance(end, Digest)]
    assert len(won) == 2
    assert len(set(won)) == 1
    assert [type(end) for end in ends if not isinstance(end, Digest)] == [ConflictError, ConflictError]
    assert await objects.fetch(KEY, tmp_path / "back") == won[0]
    assert await objects.list("models") == {KEY: 6 * MIB}


async def test_what_is_not_there(objects: Objects, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await objects.read(KEY, 10)
    with pytest.raises(NotFoundError):
        await objects.fetch(KEY, tmp_path / "back")
    assert await objects.list("models") == {}
    await objects.delete("models")
    assert names(tmp_path) <= {"objects"}


async def test_a_read_has_a_limit(objects: Objects) -> None:
    await objects.put_bytes(KEY, b"12345")

    assert await objects.read(KEY, 5) == b"12345"
    with pytest.raises(TooLargeError, match="5 bytes"):
        await objects.read(KEY, 4)


async def test_what_is_below_is_listed_and_deleted_alone(objects: Objects, url: str, big: Path) -> None:
    await objects.put_file("a/b/c", big)
    for key in ("a/b/d/e", "a/bc", "a/b.x"):
        await objects.put_bytes(key, b"12")

    assert await objects.list("a/b") == {"a/b/c": big.stat().st_size, "a/b/d/e": 2}
    assert await objects.list("a/bc") == {"a/bc": 2}
    await objects.delete("a/b")
    assert await objects.list("a") == {"a/b.x": 2, "a/bc": 2}
    await objects.delete("a")
    assert await objects.list("a") == {}
    if not url.startswith("s3:"):
        assert not names(Path(url))


@pytest.mark.parametrize("name", ["modèle été.pkl", "a b+c&d=e?f%2F#g.pkl", "模型.onnx", "x" * 236 + ".pkl"])
async def test_names_of_people(objects: Objects, name: str, big: Path, tmp_path: Path) -> None:
    key = f"models/{name}"
    digest = await objects.put_file(key, big)

    assert await objects.fetch(key, tmp_path / "back") == digest
    assert list(await objects.list("models")) == [key]
    await objects.delete(key)
    assert await objects.list("models") == {}


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        ".incoming/a",
        "a\nb",
        "a\0b",
        "a\\b",
        "a\x7f",
        "a\u202eb",
        "a#1",
        "a" * 241,
        "/".join(["a" * 200] * 5),
        "\ud800",
    ],
)
async def test_keys_that_are_none(objects: Objects, url: str, tmp_path: Path, key: str) -> None:
    calls = [
        objects.put_bytes(key, b""),
        objects.put_file(key, tmp_path / "none"),
        objects.fetch(key, tmp_path / "x"),
        objects.read(key, 1),
        objects.list(key),
        objects.delete(key),
    ]
    for call in calls:
        with pytest.raises(KubeServeError) as refused:
            await call
        assert refused.value.code == "bad_name"
    if not url.startswith("s3:"):
        assert not names(Path(url))


@pytest.mark.parametrize("url", ["http://host/x", "s3://", "s3://bucket/x?y=1", "file:///tmp"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(KubeServeError, match="s3://bucket/prefix"):
        open_objects(url)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file grows above 8 MiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, big: Path, request: pytest.FixtureRequest
) -> None:
    objects = open_objects(str(tmp_path / "objects"))
    request.getfixturevalue("small_disk")

    with pytest.raises(UnavailableError, match="disk is full"):
        await objects.put_file(KEY, big)
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert await objects.list("models") == {}


async def test_a_full_disk_here_leaves_no_half_of_what_is_fetched(
    tmp_path: Path, big: Path, request: pytest.FixtureRequest
) -> None:
    objects = open_objects(str(tmp_path / "objects"))
    await objects.put_file(KEY, big)
    request.getfixturevalue("small_disk")

    with pytest.raises(UnavailableError, match="disk is full"):
        await objects.fetch(KEY, tmp_path / "back")
    assert names(tmp_path) == {"big", "objects"}


async def test_a_directory_is_its_owners_alone(tmp_path: Path) -> None:
    open_objects(str(tmp_path / "data" / "objects"))

    assert (tmp_path / "data" / "objects").stat().st_mode & 0o777 == 0o700


async def everything(objects: Objects, big: Path, tmp_path: Path) -> None:
    """Expect each call to say that the store is away, soon."""
    calls = (
        lambda: objects.put_bytes("other", b"x"),
        lambda: objects.put_file("other", big),
        lambda: objects.fetch(KEY, tmp_path / "back"),
        lambda: objects.read(KEY, 10),
        lambda: objects.list("models"),
        lambda: objects.delete("models"),
    )
    for call in calls:
        async with asyncio.timeout(2 * TIMEOUT + 5):
            with pytest.raises(UnavailableError, match="try again"):
                await call()
    assert not (tmp_path / "back").exists()


async def test_s3_that_is_away_slow_or_cut(
    s3_server: S3Server, big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TcpProxy(s3_server.port) as proxy:
        for name, value in s3_server.environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        objects = open_objects(f"s3://models/{uuid.uuid4()}", timeout=TIMEOUT)
        await objects.put_file(KEY, big)

        proxy.stall()
        await everything(objects, big, tmp_path)
        proxy.flow()
        proxy.cut()
        assert await objects.read(KEY, 20 * MIB) == big.read_bytes()

        proxy.target = 1  # nobody listens
        proxy.cut()
        await everything(objects, big, tmp_path)
        proxy.target = s3_server.port
        assert await objects.put_file("other", big) == Digest.of(big.read_bytes())


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
async def test_s3_that_refuses_us(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    for name, value in (s3_server.environment() | {wrong: "wrong"}).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UnavailableError):
        await open_objects("s3://models/x").put_bytes(KEY, b"x")
    assert "403" in caplog.text


async def test_the_loop_goes_on_meanwhile(objects: Objects, big: Path) -> None:
    async def tick() -> int:
        count = 0
        while not writing.done():
            count += 1
            await asyncio.sleep(0)
        return count

    writing = asyncio.create_task(objects.put_file(KEY, big))
    assert await tick() > 20


def test_memory_stays_small_and_the_process_ends_well(url: str, tmp_path: Path) -> None:
    """64 MiB there and back, in a process of its own."""
    program = r"""
        import asyncio, re, sys
        from pathlib import Path
        from kubeserve.objects import open_objects

        def peak():
            return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024

        async def main():
            objects = open_objects(sys.argv[1])
            await objects.put_bytes("warm", b"x")
            before = peak()
            sent = await objects.put_file("big", Path(sys.argv[2]))
            assert await objects.put_file("big", Path(sys.argv[2])) == sent
            assert await objects.fetch("big", Path(sys.argv[2] + "back")) == sent
            print(peak() - before)

        asyncio.run(main())
    """
    with (tmp_path / "file").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
    ended = subprocess.run(  # noqa: S603  a program of ours
        [sys.executable, "-c", textwrap.dedent(program), url, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 32  # MiB
