"""Environments of models, built by a real uv from an index of this machine."""

import asyncio
import hashlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness.eventually import eventually
from packaging.requirements import Requirement

from kubeserve.domain import Format
from kubeserve.intake import environments as module
from kubeserve.intake.environments import Environment, Environments
from kubeserve.intake.prove import Bounds, prove
from kubeserve.intake.uv import Uv
from kubeserve.intake.verdicts import FailedError, RejectedError
from wheels import make_wheel, served

TENANT = "3f0e"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The directory with the wheels that there are: `usual` is the base's."""
    make_wheel(tmp_path / "index", "usual", "1.0", {"usual/__init__.py": "one = 1\n", "usual/more.py": "two = 2\n"})
    make_wheel(tmp_path / "index", "usual", "2.0", {"usual/__init__.py": "one = 1.0\n"})
    make_wheel(tmp_path / "index", "extra", "1.0", {"extra.py": "three = 3\n"}, requires=["usual"])
    make_wheel(tmp_path / "index", "newer", "1.0", {"newer.py": "four = 4\n"}, requires=["usual>=2"])
    return tmp_path / "index"


@pytest.fixture
def environments(index: Path, tmp_path: Path) -> Iterator[Environments]:
    wheel = index / "usual" / "usual-1.0-py3-none-any.whl"
    base = f"usual==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    with served(index) as url:
        yield Environments(tmp_path / "environments", base=base, environ={"UV_DEFAULT_INDEX": url})


def requirements(*lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def imported(environment: Environment, code: str) -> str:
    """What the environment's Python prints."""
    python = environment.path / "bin" / "python"
    arguments = [python, "-I", "-B", "-c", code]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - ours


async def test_what_the_base_has_is_the_base(environments: Environments) -> None:
    base = await environments.base()

    same = await environments.prepare(TENANT, requirements("usual>=1", "missing; python_version < '3'"))

    assert (base.built, same.built) == (True, False)
    assert same.path == base.path
    assert imported(base, "import usual; print(usual.one)") == "1"


async def test_what_the_image_has_is_not_built(environments: Environments, tmp_path: Path) -> None:
    base = await environments.base()
    before = base.path.stat().st_mtime_ns
    other = Environments(tmp_path / "other", base=environments._base, ready=base.path.parent)  # noqa: SLF001  as a fixture

    found = await other.prepare(TENANT, requirements("usual"))

    assert (found.id, found.path, found.built) == (base.id, base.path, False)
    assert (other.path(base.id), other.is_ready(base.id), other.is_ready("x")) == (base.path, True, False)
    assert base.path.stat().st_mtime_ns == before, "an image is read-only"


async def test_what_is_missing_is_added_and_the_base_keeps_its_versions(environments: Environments) -> None:
    found = await environments.prepare(TENANT, requirements("extra"))

    assert sorted(found.packages) == ["extra==1.0", "usual==1.0"]
    assert imported(found, "import extra, usual; print(extra.three, usual.one)") == "3 1"


async def test_what_must_differ_from_the_base_differs(environments: Environments) -> None:
    found = await environments.prepare(TENANT, requirements("newer"))

    assert sorted(found.packages) == ["newer==1.0", "usual==2.0"]


async def test_the_same_is_found_again_and_another_tenant_has_its_own(environments: Environments) -> None:
    first = await environments.prepare(TENANT, requirements("extra"))
    again = await environments.prepare(TENANT, requirements("extra>=1"))
    other = await environments.prepare("another", requirements("extra"))

    assert (again.path, again.built) == (first.path, False)
    assert other.path != first.path


async def test_of_two_builds_at_once_one_builds(environments: Environments) -> None:
    both = await asyncio.gather(*(environments.prepare(TENANT, requirements("extra")) for _ in range(2)))

    assert sorted(environment.built for environment in both) == [False, True]


async def test_it_is_read_only_and_compiled(environments: Environments) -> None:
    await environments.base()
    found = await environments.prepare(TENANT, requirements("extra"))

    paths = [path for path in found.path.glob("lib/**/*") if not path.is_symlink()]
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o222 for path in paths)
    compiled = {path.name.split(".")[0] for path in paths if path.suffix == ".pyc"}
    assert compiled >= {"extra", "__init__", "more"}


async def test_what_the_base_compiled_is_not_compiled_again(environments: Environments) -> None:
    base = await environments.base()
    found = await environments.prepare(TENANT, requirements("extra"))

    ours, theirs = (next(each.path.glob("lib/**/usual/__pycache__/more.*.pyc")) for each in (found, base))
    assert ours.samefile(theirs)


@pytest.mark.parametrize(
    ("required", "reason"),
    [
        (["no-such-package"], "no-such-package"),
        (["usual==9"], "there is no version of usual that fits usual==9"),
        (["newer", "usual<2"], "usual<2"),
        (["source"], "source"),
    ],
)
async def test_what_cannot_be_met_is_rejected_in_words(
    environments: Environments, index: Path, required: list[str], reason: str
) -> None:
    (index / "source").mkdir()
    (index / "source" / "source-1.0.tar.gz").write_bytes(b"never unpacked")

    with pytest.raises(RejectedError) as rejected:
        await environments.prepare(TENANT, requirements(*required))

    said = str(rejected.value)
    assert said.startswith("requirements.txt cannot be met: ")
    assert reason in said
    assert "\n" not in said


async def test_an_index_that_is_away_is_a_failure_that_tells_no_secret(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    away = {"UV_DEFAULT_INDEX": f"http://user:hidden@127.0.0.1:{port}/simple", "UV_HTTP_RETRIES": "0"}
    environments = Environments(tmp_path, base="", environ=away)

    with pytest.raises(FailedError) as failed:
        await environments.prepare(TENANT, requirements("extra"))

    assert f"127.0.0.1:{port}" in str(failed.value)
    assert "hidden" not in str(failed.value)


async def test_a_build_that_takes_too_long_is_a_failure(
    environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESOLVING", 0.0)

    with pytest.raises(FailedError, match="not there after 0 s"):
        await environments.prepare(TENANT, requirements("extra"))


async def test_a_full_disk_is_a_failure_and_leaves_nothing(
    environments: Environments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "FREE", 1 << 60)

    with pytest.raises(FailedError, match="disk is nearly full"):
        await environments.prepare(TENANT, requirements("extra"))

    assert [path.name for path in (tmp_path / "environments").iterdir() if path.is_dir()] == [".cache"]


async def test_an_environment_that_is_too_large_is_rejected(
    environments: Environments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "LARGEST", 10)

    with pytest.raises(RejectedError, match="at most 10 are accepted"):
        await environments.prepare(TENANT, requirements("extra"))

    assert [path.name for path in (tmp_path / "environments").iterdir() if path.is_dir()] == [".cache"]


async def test_a_cancelled_build_leaves_nothing(environments: Environments, tmp_path: Path) -> None:
    task = asyncio.create_task(environments.prepare(TENANT, requirements("extra")))
    await eventually(lambda: list((tmp_path / "environments").glob(".building-*")))
    task.cancel()
    await asyncio.wait([task])

    assert not list((tmp_path / "environments").glob(".building-*"))
    assert (await environments.prepare(TENANT, requirements("extra"))).built


async def test_what_nobody_uses_is_removed_but_not_the_base_or_what_is_new(environments: Environments) -> None:
    base = await environments.base()
    used, unused, new = [await environments.prepare(tenant, requirements("extra")) for tenant in ("a", "b", "c")]
    for environment in (base, used, unused):
        os.utime(environment.path, (time.time() - 7200,) * 2)

    assert environments.collect([used.id]) == [unused.id]

    assert [environment.path.exists() for environment in (base, used, unused, new)] == [True, True, False, True]


async def test_uv_is_told_the_index_and_nothing_else_of_the_platform(tmp_path: Path) -> None:
    uv = Uv(
        tmp_path,
        {
            "PIP_INDEX_URL": "https://index.example/simple",
            "UV_INDEX_OURS_PASSWORD": "p",
            "https_proxy": "http://proxy.example",
            "KUBESERVE_SECRET": "s",
            "AWS_SECRET_ACCESS_KEY": "s",
            "UV_CONFIG_FILE": "/etc/x",
            "PYTHONPATH": "/x",
        },
    )

    assert set(uv.environment) == {
        "UV_DEFAULT_INDEX", "UV_INDEX_OURS_PASSWORD", "https_proxy", "HOME", "PATH", "UV_PYTHON_DOWNLOADS",
    }  # fmt: skip


WRITES = "import pathlib; pathlib.Path({!r}).touch()\n"
HOSTILE: dict[str, Callable[[str], dict[str, str]]] = {
    "pth": lambda write: {"evil.pth": write},
    "sitecustomize": lambda write: {"sitecustomize.py": write},
    "usercustomize": lambda write: {"usercustomize.py": write},
    "shadow": lambda write: {f"{name}.py": write for name in ("json", "site", "encodings", "os", "kubeserve")},
    "settings": lambda write: {
        "evil-1.0.data/data/pyvenv.cfg": f"home = /nowhere\n# {write}",
        "sitecustomize.py": write,
    },
    "library": lambda write: {f"evil-1.0.data/data/lib/python3.{sys.version_info.minor}/os.py": write},
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_no_code_of_a_wheel_runs_outside_the_walls(
    kind: str, environments: Environments, index: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "escaped"
    make_wheel(index, "evil", "1.0", HOSTILE[kind](WRITES.format(str(mark))))
    model, scratch = tmp_path / "model.pkl", tmp_path / "scratch"
    model.write_bytes(b"\x80\x04}.")
    scratch.mkdir()

    environment = await environments.prepare(TENANT, requirements("evil"))
    with pytest.raises(RejectedError):
        await prove(environment.path / "bin" / "python", model, Format.PICKLE, scratch, Bounds())

    assert not mark.exists()
    assert [path.name for path in (environment.path / "bin").iterdir()] == ["python"]
    assert (environment.path / "bin" / "python").samefile(sys.executable)


@pytest.mark.parametrize("path", ["scripts/python", "data/bin/python", "data/bin/python3"])
async def test_a_wheel_that_brings_a_python_is_rejected(path: str, environments: Environments, index: Path) -> None:
    make_wheel(index, "evil", "1.0", {f"evil-1.0.data/{path}": "#!/bin/sh\n"})

    with pytest.raises(RejectedError, match="reserved name"):
        await environments.prepare(TENANT, requirements("evil"))


@pytest.mark.parametrize("path", ["../../../escaped", "/escaped", "evil-1.0.data/data/../../../escaped"])
async def test_a_wheel_that_climbs_out_writes_nothing_outside(
    path: str, environments: Environments, index: Path, tmp_path: Path
) -> None:
    make_wheel(index, "evil", "1.0", {path: "x"})

    with suppress(RejectedError, FailedError):
        await environments.prepare(TENANT, requirements("evil"))

    assert not [path for path in _files(tmp_path) if path.name == "escaped" and "environments" not in path.parts]
    assert not any(path.name == "escaped" for path in Path("/").iterdir())


def _files(folder: Path) -> list[Path]:
    return list(folder.glob("**/*"))


async def test_an_unwalled_start_would_run_it(environments: Environments, index: Path, tmp_path: Path) -> None:
    """What the test above stands on: these wheels do harm where site-packages are read without walls."""
    mark = tmp_path / "escaped"
    make_wheel(index, "evil", "1.0", HOSTILE["pth"](WRITES.format(str(mark))))

    environment = await environments.prepare(TENANT, requirements("evil"))
    assert not mark.exists()
    imported(environment, "pass")

    assert mark.exists()
