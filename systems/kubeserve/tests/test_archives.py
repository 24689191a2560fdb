"""Environments in the store of files: packed once, kept as long as a version needs them."""

import asyncio
import shutil
from pathlib import Path

import pytest

from kubeserve.errors import NotFoundError
from kubeserve.intake import Archive, Archives, Environments
from kubeserve.objects import Objects, open_objects
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
    assert (first.key, first.sha256, first.size) == (f"environments/{NAME}.tar.gz", digest.sha256, digest.size)
    unpack(tmp_path / "a", tmp_path / "e0")
    assert (tmp_path / "e0" / LIBRARY / "one.py").read_text() == "number = 1\n"
    assert list((tmp_path / "work").iterdir()) == []


async def test_one_that_is_nowhere_any_more_is_told(archives: Archives) -> None:
    with pytest.raises(NotFoundError, match="upload the version anew"):
        await archives.archive(OTHER)


async def test_what_a_death_left_without_a_note_is_written_anew(archives: Archives, objects: Objects) -> None:
    await objects.put_bytes(f"environments/{NAME}.tar.gz", b"of another build")
    found = await _asked(archives)
    assert (await objects.list("environments"))[found.key] == found.size > 100


async def test_the_image_has_its_own_and_a_version_outlives_the_image(
    archives: Archives, objects: Objects, tmp_path: Path
) -> None:
    _make(tmp_path / "image" / OTHER)
    assert await archives.archive(OTHER) is None
    await archives.keep({OTHER, NAME})
    await archives.keep({OTHER, NAME})
    assert sorted(await objects.list("environments")) == [f"environments/{OTHER}.json", f"environments/{OTHER}.tar.gz"]
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
    assert sorted(await objects.list("environments")) == [f"environments/{NAME}.json", f"environments/{NAME}.tar.gz"]
    used.clear()
    assert await archives.collect(asked) == [NAME]
    assert await objects.list("environments") == {}
