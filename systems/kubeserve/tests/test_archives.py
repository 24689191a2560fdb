"""Environments in the store of files: packed once, kept as long as a version needs them."""

import asyncio
import shutil
from pathlib import Path

import pytest

from kubeserve.errors import KubeServeError, NotFoundError, UnavailableError
from kubeserve.intake import Archive, Archives, Environments
from kubeserve.objects import Digest, Objects, open_objects
from kubeserve.packing import LIBRARY, unpack

NAME, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return open_objects(str(tmp_path / "objects"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The environments of this machine: there is one."""
    place = tmp_path / "environments"
    _make(place / NAME)
    return place


@pytest.fixture
def archives(root: Path, objects: Objects, tmp_path: Path) -> Archives:
    environments = Environments(root, base="usual==1.0", ready=tmp_path / "image")
    return Archives(environments, objects, tmp_path / "work")


def _make(place: Path, text: str = "number = 1\n") -> None:
    (place / LIBRARY).mkdir(parents=True)
    (place / LIBRARY / "one.py").write_text(text)


def _key(name: str, sha256: str) -> str:
    return f"environments/{name}.{sha256[:16]}.tar.gz"


async def _names(objects: Objects) -> dict[str, set[str]]:
    keys = [Path(key).name.split(".", 1) for key in await objects.list("environments")]
    found: dict[str, set[str]] = {}
    for name, ending in keys:
        found.setdefault(name, set()).add(ending[17:] or ending)  # without the mark
    return found


async def _asked(archives: Archives) -> Archive:
    found = await archives.archive(NAME)
    assert found is not None
    return found


async def test_it_is_packed_once_and_found_by_its_note(
    archives: Archives, objects: Objects, root: Path, tmp_path: Path
) -> None:
    first, second = await asyncio.gather(_asked(archives), _asked(archives))
    assert first == second
    shutil.rmtree(root / NAME)
    assert await _asked(archives) == first
    digest = await objects.fetch(first.key, tmp_path / "a")
    assert (first.key, first.sha256, first.size) == (_key(NAME, digest.sha256), digest.sha256, digest.size)
    unpack(tmp_path / "a", tmp_path / "e0")
    assert (tmp_path / "e0" / LIBRARY / "one.py").read_text() == "number = 1\n"
    assert list((tmp_path / "work").iterdir()) == []


async def test_one_that_is_nowhere_any_more_is_told(archives: Archives) -> None:
    with pytest.raises(NotFoundError, match="upload the version anew"):
        await archives.archive(OTHER)


async def test_what_a_death_left_without_a_note_or_with_a_damaged_one_is_in_nobodys_way(
    archives: Archives, objects: Objects, tmp_path: Path
) -> None:
    await objects.put_bytes(_key(NAME, "0" * 64), b"of another build")
    await objects.put_bytes(f"environments/{NAME}.json", b"{")
    found = await _asked(archives)
    assert (await objects.fetch(found.key, tmp_path / "a")).sha256 == found.sha256
    assert await _asked(archives) == found


async def test_two_control_planes_that_pack_at_once_agree_on_an_archive_that_is_whole(
    archives: Archives, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make(tmp_path / "second" / NAME, "number = 1  # as another machine has built it\n")
    second = Archives(Environments(tmp_path / "second", base="usual==1.0"), objects, tmp_path / "work2")
    put = objects.put_file
    others: list[Archive] = []

    async def put_late(key: str, path: Path) -> Digest:
        monkeypatch.undo()
        others.append(await _asked(second))
        return await put(key, path)

    monkeypatch.setattr(objects, "put_file", put_late)
    first = await _asked(archives)
    assert [first] == others
    assert (await objects.fetch(first.key, tmp_path / "a")).sha256 == first.sha256

    async def nothing() -> set[str]:
        return set()

    assert await archives.collect(nothing) == [NAME]
    assert await objects.list("environments") == {}


async def test_the_image_has_its_own_and_a_version_outlives_the_image(
    archives: Archives, objects: Objects, tmp_path: Path
) -> None:
    _make(tmp_path / "image" / OTHER)
    assert await archives.archive(OTHER) is None
    await archives.keep({OTHER, NAME})
    await archives.keep({OTHER, NAME})
    assert await _names(objects) == {OTHER: {"json", "tar.gz"}}
    shutil.rmtree(tmp_path / "image")
    assert await archives.archive(OTHER) is not None


async def test_what_no_version_uses_is_deleted_and_what_one_uses_by_now_stays(
    archives: Archives, objects: Objects, root: Path
) -> None:
    _make(root / OTHER)
    for name in (NAME, OTHER):
        await archives.archive(name)
    used = {NAME}

    async def asked() -> set[str]:
        return used

    assert await archives.collect(asked) == [OTHER]
    assert await archives.collect(asked) == []
    assert await _names(objects) == {NAME: {"json", "tar.gz"}}
    used.clear()
    assert await archives.collect(asked) == [NAME]
    assert await objects.list("environments") == {}


async def test_what_cannot_be_packed_is_no_passing_fault(archives: Archives, root: Path) -> None:
    (root / NAME / LIBRARY / "linked.py").symlink_to("one.py")
    with pytest.raises(KubeServeError, match=r"cannot be packed: .*linked\.py is no plain file") as error:
        await archives.archive(NAME)
    assert not isinstance(error.value, UnavailableError), "it would be packed again every second"
