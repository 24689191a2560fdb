"""`kubeserve fetch`: what a pod gets by URLs, from a real S3 server and from one that misbehaves."""

import asyncio
import gzip
import hashlib
import io
import os
import py_compile
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from harness.certificates import certify_localhost
from harness.eventually import eventually
from harness.s3_server import S3Server

from kubeserve.cli import main
from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.objects import Digest, open_objects
from kubeserve.packing import LIBRARY, PackingError, pack, unpack
from kubeserve.places import fetch as module
from kubeserve.places.fetch import Download, Urls, fetch
from pods import workload_of

CONTENT = os.urandom(3 * 1024 * 1024 + 5)
Serve = Callable[[BaseHTTPRequestHandler, int], None]


class Pod:
    """The folders of a pod, and what it is for."""

    def __init__(self, folder: Path) -> None:
        self.models, self.environments = folder / "models", folder / "environment"
        for place in (self.models, self.environments):
            place.mkdir()
        self.model = self.models / "3f" / "model.pkl"
        self.environment = self.environments / "e0"
        self.workload = workload_of(self.model, self.environment)

    def urls(self, url: str, content: bytes = CONTENT, **changes: Any) -> Urls:
        return Urls(model=_download(url, content, self.model).model_copy(update=changes))

    def fetch(self, urls: Urls, patience: float = 10) -> None:
        fetch(self.workload, urls, models=self.models, environments=self.environments, patience=patience)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.models.rglob("*") if path.is_file())


def _download(url: str, content: bytes, path: Path) -> Download:
    return Download(url=url, sha256=hashlib.sha256(content).hexdigest(), size=len(content), path=path)


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)


@contextmanager
def server(serve: Serve, *certificate: Path) -> Iterator[str]:
    """Answers GET by `serve`, which is given the number of the request, from 0; by TLS with a certificate and a key."""
    count = iter(range(1000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            serve(self, next(count))

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        made.socket = context.wrap_socket(made.socket, server_side=True)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{made.server_port}/bucket/model.pkl?X-Amz-Signature=hush"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def test_a_model_is_there_for_all_to_read_and_is_not_fetched_twice(pod: Pod) -> None:
    asked: list[int] = []

    def serve(handler: BaseHTTPRequestHandler, number: int) -> None:
        asked.append(number)
        answer(handler, 200, CONTENT)

    with server(serve) as url:
        pod.fetch(pod.urls(url))
        pod.fetch(pod.urls(url))
    assert asked == [0]
    assert pod.model.read_bytes() == CONTENT
    assert stat.S_IMODE(pod.model.stat().st_mode) == 0o444
    assert pod.left() == ["model.pkl"]


def test_a_store_by_a_private_authority_is_trusted_once_that_is_named(
    pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, *certificate = certify_localhost(tmp_path)
    with server(lambda handler, _: answer(handler, 200, CONTENT), *certificate) as url:
        with pytest.raises(KubeServeError, match="its certificate is not trusted; SSL_CERT_FILE tells"):
            pod.fetch(pod.urls(url))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        pod.fetch(pod.urls(url))
    assert pod.model.read_bytes() == CONTENT


def test_another_content_at_its_place_is_replaced(pod: Pod) -> None:
    pod.model.parent.mkdir()
    pod.model.write_bytes(b"half of it")
    with server(lambda handler, _: answer(handler, 200, CONTENT)) as url:
        pod.fetch(pod.urls(url))
    assert pod.model.read_bytes() == CONTENT


def test_it_goes_on_where_the_connection_broke(pod: Pod) -> None:
    asked: list[str | None] = []

    def serve(handler: BaseHTTPRequestHandler, number: int) -> None:
        asked.append(handler.headers["Range"])
        start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        body = CONTENT[start:]
        answer(handler, 206 if start else 200, body[: len(body) // 2] if number < 3 else body, len(body))

    with server(serve) as url:
        pod.fetch(pod.urls(url))
    assert pod.model.read_bytes() == CONTENT
    assert asked[0] is None
    assert len(asked) == 4
    assert None not in asked[1:]


def test_a_server_without_ranges_is_read_from_the_start(pod: Pod) -> None:
    with server(
        lambda handler, n: answer(handler, 200, CONTENT[: 1 << 20] if n == 0 else CONTENT, len(CONTENT))
    ) as url:
        pod.fetch(pod.urls(url))
    assert pod.model.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_does_not_serve_for_a_while_is_waited_for(pod: Pod, status: int) -> None:
    with server(lambda handler, n: answer(handler, status if n < 3 else 200, b"" if n < 3 else CONTENT)) as url:
        pod.fetch(pod.urls(url))
    assert pod.model.read_bytes() == CONTENT


def test_what_nobody_answers_is_away(pod: Pod) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x?X-Amz-Signature=hush"
        with pytest.raises(UnavailableError, match="does not answer") as told:
            pod.fetch(pod.urls(url), patience=0.1)
    assert "hush" not in str(told.value)
    assert pod.left() in ([], [".model.pkl.part"])


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (403, b"", UnavailableError, "refuses the URL (403)"),
        (404, b"", KubeServeError, "no such file (404); upload"),
        (200, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), KubeServeError, "has other content there; upload"),
        (200, CONTENT + b"x", KubeServeError, "is larger there; upload"),
    ],
)
def test_what_no_repetition_helps_is_said_at_once(
    pod: Pod, status: int, body: bytes, kind: type[KubeServeError], told: str
) -> None:
    asked: list[int] = []

    def serve(handler: BaseHTTPRequestHandler, number: int) -> None:
        asked.append(number)
        answer(handler, status, body)

    with server(serve) as url, pytest.raises(KubeServeError) as error:
        pod.fetch(pod.urls(url))
    assert type(error.value) is kind or issubclass(type(error.value), kind)
    assert told in str(error.value)
    assert "hush" not in str(error.value)
    assert asked == [0]
    assert not pod.model.exists()


def test_urls_of_another_revision_or_of_a_place_elsewhere_are_refused(pod: Pod) -> None:
    with pytest.raises(UnavailableError, match="different revisions"):
        pod.fetch(pod.urls("http://127.0.0.1:9/", path=pod.models / "other"))
    for path in (Path("/etc/passwd"), pod.models / ".." / "x", pod.models):
        pod.workload = workload_of(path, pod.environment)
        with pytest.raises(KubeServeError, match="is not below"):
            pod.fetch(pod.urls("http://127.0.0.1:9/", path=path))


def _told(pod: Pod, folder: Path, urls: str) -> list[str]:
    (folder / "workload.json").write_text(pod.workload.model_dump_json())
    (folder / "urls.json").write_text(urls)
    words = ["fetch", "--workload", str(folder / "workload.json"), "--urls", str(folder / "urls.json")]
    return [*words, "--models", str(pod.models), "--environments", str(pod.environments)]


def test_the_command_says_in_one_line_what_is_wrong(
    pod: Pod, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(lambda handler, _: answer(handler, 404)) as url:
        code = main(_told(pod, tmp_path, pod.urls(url).model_dump_json()))
    line = capsys.readouterr().err
    assert (code, line.count("\n")) == (1, 1)
    assert line.startswith("kubeserve fetch: 127.0.0.1:")
    with server(lambda handler, _: answer(handler, 403)) as url:
        assert main(_told(pod, tmp_path, pod.urls(url).model_dump_json())) == 4
    assert main(_told(pod, tmp_path, '{"model": {"url": "x"}}')) == 2
    assert "urls.json: model.sha256 is not as this version" in capsys.readouterr().err
    with server(lambda handler, _: answer(handler, 200, CONTENT)) as url:
        assert main(_told(pod, tmp_path, pod.urls(url).model_dump_json())) == 0
    assert pod.model.exists()


# Environments -----------------------------------------------------------------------------------------------------


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """An environment with one package."""
    place = tmp_path / "made"
    package = place / LIBRARY / "one"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("number = 1\n")
    (place / "bin").mkdir()
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / "bin" / "script").write_text("left out")
    (place / "lib64").symlink_to("lib")
    (place / "pyvenv.cfg").write_text("home = /elsewhere\n")
    (place / "share").mkdir()
    (place / "share" / "data").write_text("x")
    (place / "share" / "data").chmod(0o777)
    return place


def _imported(environment: Path) -> str:
    words = [environment / "bin" / "python", "-I", "-B", "-c", "import one; print(one.number, one.__file__)"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()  # noqa: S603  ours


def test_an_environment_works_where_it_is_unpacked_and_nobody_writes_it(packages: Path, tmp_path: Path) -> None:
    pack(packages, tmp_path / "a.tar.gz")
    place = tmp_path / "elsewhere" / "e0"
    unpack(tmp_path / "a.tar.gz", place)
    assert _imported(place) == f"1 {place / LIBRARY / 'one' / '__init__.py'}"
    assert sorted(path.name for path in place.iterdir()) == ["bin", "lib", "pyvenv.cfg", "share"]
    assert [path.name for path in (place / "bin").iterdir()] == ["python"]
    written = [path for path in (place, *place.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o222]
    assert written == [place]  # whose owner may remove it


def test_it_is_packed_to_the_same_bytes_each_time(packages: Path, tmp_path: Path) -> None:
    pack(packages, tmp_path / "a")
    (packages / "lib").touch()
    pack(packages, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_compiled_is_good_where_it_is_unpacked(packages: Path, tmp_path: Path) -> None:
    source = packages / LIBRARY / "one" / "__init__.py"
    os.utime(source, (1_700_000_000.5, 1_700_000_000.5))
    compiled = Path(py_compile.compile(str(source)))
    pack(packages, tmp_path / "a")
    unpack(tmp_path / "a", tmp_path / "e0")
    there = tmp_path / "e0" / compiled.relative_to(packages)
    assert int.from_bytes(there.read_bytes()[8:12], "little") == int(
        there.parent.with_name("__init__.py").stat().st_mtime
    )


def test_what_is_no_plain_file_is_not_packed(packages: Path, tmp_path: Path) -> None:
    (packages / LIBRARY / "link").symlink_to("/etc/passwd")
    with pytest.raises(PackingError, match="link is no plain file"):
        pack(packages, tmp_path / "a")


def _archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb") as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


HOSTILE = {
    "up": [(_member("lib/../../out"), b"x")],
    "absolute": [(_member("/tmp/out"), b"x")],  # noqa: S108  it is refused
    "link": [(_member("lib/link", tarfile.SYMTYPE, "/"), b"")],
    "hard link": [(_member("lib/link", tarfile.LNKTYPE, "/etc/passwd"), b"")],
    "through a link": [(_member("lib", tarfile.SYMTYPE, "/tmp"), b""), (_member("lib/out"), b"x")],  # noqa: S108  as above
    "device": [(_member("lib/null", tarfile.CHRTYPE), b"")],
    "pipe": [(_member("lib/pipe", tarfile.FIFOTYPE), b"")],
    "interpreter": [(_member("bin/python"), b"x")],
    "configuration": [(_member("pyvenv.cfg"), b"x")],
    "itself": [(_member("."), b"x")],
    "twice": [(_member("lib/a"), b"x"), (_member("lib/a"), b"y")],
    "of another Python": [(_member("lib/python2.7/site-packages/a.py"), b"x")],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_leads_elsewhere_leaves_nothing(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(_archive(*HOSTILE[kind]))
    place = tmp_path / "environments" / "e0"
    with pytest.raises((PackingError, FileExistsError)):
        unpack(tmp_path / "a", place)
    assert list(place.parent.iterdir()) == []
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/out").exists()  # noqa: S108  nobody wrote it


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", _archive((_member("lib/a"), b"x" * 9999))[:-40]],
    ids=["empty", "no archive", "cut off"],
)
def test_a_damaged_archive_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(PackingError):
        unpack(tmp_path / "a", tmp_path / "e0")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_more_than_may_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeserve.packing.LARGEST", 1000)
    (tmp_path / "a").write_bytes(_archive((_member("lib/a"), bytes(2000))))
    with pytest.raises(PackingError, match="more than 1000 bytes"):
        unpack(tmp_path / "a", tmp_path / "e0")


async def test_from_a_real_store_by_its_own_urls(
    pod: Pod, packages: Path, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    store = open_objects(f"s3://models/{uuid.uuid4()}")
    pack(packages, tmp_path / "e0.tar.gz")
    told = await store.put_bytes("models/a b/model.pkl", CONTENT)
    packed = await store.put_file("environments/e0.tar.gz", tmp_path / "e0.tar.gz")

    async def signed(key: str, digest: Digest, path: Path) -> Download:
        url = await store.presign(key, 60)
        return Download(url=url, sha256=digest.sha256, size=digest.size, path=path)

    urls = Urls(
        model=await signed("models/a b/model.pkl", told, pod.model),
        environment=await signed("environments/e0.tar.gz", packed, pod.environment),
    )
    for _ in range(2):
        await asyncio.to_thread(pod.fetch, urls)
    assert pod.model.read_bytes() == CONTENT
    assert (await asyncio.to_thread(_imported, pod.environment)).startswith("1 ")
    assert [path.name for path in pod.environments.iterdir()] == ["e0"]
    old = urls.model.model_copy(update={"url": await store.presign("models/a b/model.pkl", 1), "sha256": "0" * 64})
    await eventually(lambda: requests.get(old.url, timeout=10).status_code == 403)
    with pytest.raises(UnavailableError, match="refuses the URL"):
        await asyncio.to_thread(pod.fetch, Urls(model=old))


async def test_a_directory_has_no_urls(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="set KUBESERVE_OBJECTS to s3"):
        await open_objects(str(tmp_path / "objects")).presign("a", 60)
