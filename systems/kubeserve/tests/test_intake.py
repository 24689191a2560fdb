"""The whole proof of an upload: a real registry, real files, real environments and the real sandbox."""

import asyncio
import os
import re
import resource
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.eventually import eventually

from environments import SCIENCE, environment
from kubeserve.database import Database
from kubeserve.domain import File, Outcome, Step, Version, VersionState
from kubeserve.errors import UnavailableError
from kubeserve.intake import Bounds, Environment, Environments, Intake, IntakeSettings, pipeline
from kubeserve.intake.scan import Imports
from kubeserve.intake.verdicts import FailedError
from kubeserve.objects import Objects, open_objects
from kubeserve.registry import Registry
from people import make_user
from replicas import pickled

State = VersionState
NAMES = ["identified", "scanned", "environment", "loaded", "predicted"]
TRAINS = """
import joblib, pathlib, pickle, sys, numpy, skops.io
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
folder = pathlib.Path(sys.argv[1])
rows = numpy.random.default_rng(0).random((60, 4))
model = LogisticRegression().fit(rows, rows[:, 0] > 0.5)
joblib.dump(model, folder / "m.joblib", compress=3)
(folder / "m.pkl").write_bytes(pickle.dumps(model))
skops.io.dump(model, folder / "m.skops")
(folder / "m.onnx").write_bytes(to_onnx(model, rows[:1].astype("float32")).SerializeToString())
"""
TEXTS = "class Model:\n    def predict(self, rows): return ['-'.join(row) for row in rows]"
ENDLESS = "class Model:\n    pass\nwhile True: pass"
IDLE = "class Model:\n    pass\nimport time\ntime.sleep(3600)"
NO_FEATURES = "class Model:\n    def predict(self, rows): return [0] * len(rows)"


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.fixture(scope="session")
def trained(science: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in each format."""
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run([science / "bin" / "python", "-c", TRAINS, folder], check=True, timeout=100)  # noqa: S603 - ours
    return folder


class Prepared(Environments):
    """One that is there already, whatever is required."""

    def __init__(self, path: Path) -> None:
        self.environment = Environment("science", path, ("scikit-learn==1.9.1",), built=False)

    async def base(self) -> Environment:
        return self.environment

    async def prepare(self, *_: object) -> Environment:
        return self.environment


class Place:
    """A registry, a store of files and an intake; `crash` leaves them as a platform does that is killed."""

    def __init__(self, database: Database, registry: Registry, science: Path, folder: Path) -> None:
        self.database, self.registry, self.folder = database, registry, folder
        self.objects: Objects = open_objects(str(folder / "objects"))
        self.environments: Environments = Prepared(science)
        self.bounds = Bounds()
        self.intake = self.new()

    @property
    def settings(self) -> IntakeSettings:
        return IntakeSettings(bounds=self.bounds)

    def new(self) -> Intake:
        self.work = self.folder / "work"
        return Intake(self.registry, self.objects, self.environments, self.work, self.settings)

    async def uploaded(self, files: dict[str, bytes]) -> Version:
        """A version whose files are there, as an upload leaves it."""
        owner = await make_user(self.database)
        model = await self.registry.create_model(owner, "model")
        version = await self.registry.create_version(owner, model.id, "v1")
        found = []
        for name, content in files.items():
            digest = await self.objects.put_bytes(f"models/{owner}/model/v1/{name}", content)
            found.append(File(name, digest.size, digest.sha256, f"models/{owner}/model/v1/{name}"))
        await self.registry.set_state(version.id, State.RECEIVING, "", expected={State.DRAFT})
        await self.registry.record_files(version.id, found)
        received = [Step("received", Outcome.DONE, 0.1, ""), Step("hashed", Outcome.DONE, 0.1, "")]
        return await self.registry.set_state(
            version.id, State.SCANNING, "all files are here", expected={State.RECEIVING}, steps=received
        )

    async def ended(self, version: Version) -> Version:
        """The version once its proof has an end."""
        self.intake.submit(version.id)
        await self.settled()
        return await self.registry.find(version.id)

    async def settled(self) -> None:
        await eventually(lambda: not self.intake.busy, 100)

    async def proved(self, files: dict[str, bytes]) -> Version:
        return await self.ended(await self.uploaded(files))


@pytest.fixture
async def place(database: Database, registry: Registry, science: Path, tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(database, registry, science, tmp_path)
    yield place
    await place.intake.aclose()
    assert not list(tmp_path.glob("work/*"))


def missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan sees nothing in what would be refused at once."""

    async def blind(*_: object) -> Imports:
        return Imports((), ())

    monkeypatch.setattr(pipeline, "scanned", blind)


def outcomes(version: Version) -> dict[str, Outcome]:
    return {step.name: step.outcome for step in version.steps if step.name not in {"received", "hashed"}}


@pytest.mark.parametrize("name", ["m.joblib", "m.pkl", "m.skops", "m.onnx"])
async def test_a_model_of_each_format_is_proved(name: str, place: Place, trained: Path) -> None:
    version = await place.proved({name: (trained / name).read_bytes(), "requirements.txt": b"scikit-learn\n"})

    assert (version.state, version.state_reason) == (State.READY, "proved")
    assert version.format is not None
    assert version.signature is not None
    assert version.signature["features"] == 4
    assert version.level is not None
    assert version.level["seccomp"]
    assert version.environment == "science"
    assert [step.name for step in version.steps] == ["received", "hashed", *NAMES]
    assert {step.outcome for step in version.steps} == {Outcome.DONE}
    assert all(step.seconds is not None for step in version.steps)


@pytest.mark.parametrize(
    ("files", "step", "reason"),
    [
        ({"m.onnx": b"\x80\x04}."}, "identified", "m.onnx holds pickle"),
        ({"m.pkl": pickled(NO_FEATURES)}, "scanned", "malicious"),
        ({"m.pkl": b"\x80\x04}.", "requirements.txt": b"-r /etc/hostname\n"}, "environment", "line 1 is an option"),
        ({"m.pkl": b"\x80\x04}."}, "loaded", "it does not load"),
        ({"m.pkl": b"\x80\x02cno_such\nName\n."}, "loaded", "add no_such to requirements.txt"),
        ({"m.pkl": b"\x80\x04}.", "n.pkl": b"\x80\x04}."}, "identified", "2 models were uploaded"),
        ({"requirements.txt": b""}, "identified", "0 models were uploaded"),
        ({"m.joblib": b"\x04\x22\x4d\x18" + b"x" * 50}, "loaded", "add lz4 to requirements.txt"),
    ],
)
async def test_what_is_not_accepted_is_rejected_at_its_step(
    files: dict[str, bytes], step: str, reason: str, place: Place
) -> None:
    version = await place.proved(files)

    assert version.state is State.REJECTED
    assert reason in version.state_reason
    assert list(outcomes(version).items())[-1] == (step, Outcome.REJECTED)
    assert "\n" not in version.state_reason


@pytest.mark.parametrize(
    ("source", "bounds", "reason"),
    [
        (IDLE, Bounds(seconds=5), "took longer than 5 s"),
        (ENDLESS, Bounds(cpu=1), "processor"),
        ("class Model: pass\nimport os\nos._exit(3)", Bounds(), "ended with 3"),
        ("class Model: pass\nimport os\nos.kill(os.getpid(), 11)", Bounds(), ""),
        ("class Model: pass\nx = bytearray(8 << 30)", Bounds(), "more memory"),
        ("class Model: pass\nimport os\nos.write(3, b'x' * (9 << 20))", Bounds(), ""),
        ("class Model: pass\nopen('/etc/passwd')", Bounds(), "PermissionError"),
        ("class Model:\n    def predict(self, rows): 1 / 0\n    n_features_in_ = 2", Bounds(), ""),
    ],
)
async def test_what_the_scan_misses_ends_in_the_sandbox(
    source: str, bounds: Bounds, reason: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(monkeypatch)
    place.bounds = bounds
    place.intake = place.new()

    version = await place.proved({"m.pkl": pickled(source)})

    assert version.state is (State.READY if "1 / 0" in source else State.REJECTED)
    assert reason in version.state_reason


async def test_a_model_that_does_not_tell_what_it_takes_is_ready_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(monkeypatch)

    version = await place.proved({"m.pkl": pickled(NO_FEATURES)})

    assert (version.state, version.state_reason) == (State.READY, "proved to load; not asked: give sample.json")
    assert "does not tell what it takes" in version.steps[-1].detail


@pytest.mark.parametrize(
    ("sample", "state", "reason"),
    [
        (b'[["a", "b"]]', State.READY, "proved"),
        (b"[[1, 2]]", State.REJECTED, "it does not predict: TypeError"),
        (b"{}", State.REJECTED, "sample.json is no JSON list of at least one row"),
        (b"[" * 60_000, State.REJECTED, "sample.json is no JSON list of at least one row"),
        (b'["\\ud800"]', State.REJECTED, "sample.json is no JSON list of at least one row"),
        (b" " * 70_000, State.REJECTED, "sample.json has more than 65536 bytes"),
    ],
)
async def test_a_sample_is_what_the_model_is_asked(
    sample: bytes, state: State, reason: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(monkeypatch)

    version = await place.proved({"m.pkl": pickled(TEXTS), "sample.json": sample})

    assert version.state is state
    assert version.state_reason.startswith(reason)
    assert (version.signature or {}).get("example") == (["a", "b"] if state is State.READY else None)


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, Path]:
    """An environment with lz4, and a model that it compressed."""
    made = environment((*SCIENCE, "lz4==4.4.5"))
    saves = (
        "import joblib, sys; from sklearn.linear_model import LogisticRegression; "
        "joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), sys.argv[1], compress='lz4')"
    )
    model = tmp_path / "m.joblib"
    subprocess.run([made / "bin" / "python", "-c", saves, model], check=True, timeout=100)  # noqa: S603 - ours
    return made, model


@pytest.mark.long
async def test_a_model_that_lz4_compressed_is_proved_where_lz4_is(place: Place, packed: tuple[Path, Path]) -> None:
    await place.intake.aclose()
    place.environments = Prepared(packed[0])
    place.intake = place.new()

    version = await place.proved({"m.joblib": packed[1].read_bytes(), "requirements.txt": b"lz4\n"})

    assert (version.state, version.state_reason) == (State.READY, "proved")


async def test_what_is_away_fails_and_may_be_retried(place: Place, trained: Path) -> None:
    class Away(Prepared):
        async def prepare(self, *_: object) -> Environment:
            raise FailedError("the index of packages does not serve")

    there, place.environments = place.environments, Away(place.folder)
    place.intake = place.new()
    version = await place.proved({"m.pkl": (trained / "m.pkl").read_bytes()})
    assert (version.state, version.state_reason) == (State.FAILED, "the index of packages does not serve")
    assert outcomes(version)["environment"] is Outcome.FAILED

    place.environments = there
    place.intake = place.new()
    again = await place.registry.set_state(version.id, State.SCANNING, "again", expected={State.FAILED})
    version = await place.ended(again)

    assert (version.state, version.attempt) == (State.READY, 2)


async def test_a_file_that_is_gone_or_changed_fails(place: Place) -> None:
    version = await place.uploaded({"m.pkl": b"\x80\x04}."})
    await place.objects.delete(version.files[0].key)

    version = await place.ended(version)

    assert version.state is State.FAILED
    assert "cannot be fetched" in version.state_reason


async def test_a_rejected_version_is_final(place: Place) -> None:
    version = await place.proved({"m.pkl": b"text"})

    again = await place.ended(version)

    assert (again.state, again.attempt) == (State.REJECTED, 1)


async def test_a_retry_that_comes_while_a_proof_ends_is_not_lost(place: Place, trained: Path) -> None:
    content = (trained / "m.pkl").read_bytes()
    version = await place.uploaded({"m.pkl": content})
    key = version.files[0].key
    await place.objects.delete(key)
    set_state = place.registry.set_state

    async def retried_at_once(version_id: str, state: State, reason: str, **rest: Any) -> Version:
        found = await set_state(version_id, state, reason, **rest)
        if state is State.FAILED:
            await place.objects.put_bytes(key, content)
            found = await set_state(version_id, State.SCANNING, "again", expected={State.FAILED})
            place.intake.submit(version_id)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.registry, "set_state", retried_at_once)
        version = await place.ended(version)

    assert (version.state, version.attempt) == (State.READY, 2)


async def test_a_version_that_is_deleted_while_it_is_proved_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(monkeypatch)
    version = await place.uploaded({"m.pkl": pickled(IDLE)})
    place.intake.submit(version.id)
    await eventually(lambda: running(place.folder))

    await place.registry.delete_version(version.owner_id, version.id)
    await place.intake.cancel(version.id)

    assert not running(place.folder)
    assert not list(place.work.iterdir())


async def test_a_proof_goes_on_after_a_restart_and_an_orderly_one_is_no_interruption(
    place: Place, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = held_scan(monkeypatch)
    version = await place.uploaded({"m.pkl": (trained / "m.pkl").read_bytes()})
    place.intake.submit(version.id)
    await held.wait()
    await place.intake.aclose()
    monkeypatch.undo()

    place.intake = place.new()
    await place.intake.start()
    await place.settled()

    version = await place.registry.find(version.id)
    assert (version.state, version.attempt) == (State.READY, 2)
    assert [step.name for step in version.steps] == ["received", "hashed", *NAMES]


async def test_after_three_crashes_of_the_platform_a_version_fails(place: Place, trained: Path) -> None:
    version = await place.uploaded({"m.pkl": (trained / "m.pkl").read_bytes()})
    for attempt in range(1, 4):
        await crash(place, version, attempt)

    version = await place.ended(await place.registry.find(version.id))

    assert version.state is State.FAILED
    assert "the platform itself ended 3 times" in version.state_reason

    again = await place.registry.set_state(version.id, State.SCANNING, "again", expected={State.FAILED})
    assert (await place.ended(again)).state is State.READY


async def test_after_two_crashes_it_is_proved(place: Place, trained: Path) -> None:
    version = await place.uploaded({"m.pkl": (trained / "m.pkl").read_bytes()})
    for attempt in range(1, 3):
        await crash(place, version, attempt)

    place.intake = place.new()
    await place.intake.start()
    await place.settled()

    version = await place.registry.find(version.id)
    assert version.state is State.READY
    assert [step.name for step in version.steps].count("interrupted") == 2


async def test_while_the_database_is_away_the_proof_waits(place: Place, trained: Path) -> None:
    there, calls = place.registry.set_steps, 0

    async def away(*arguments: object) -> bool:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise UnavailableError("the database does not answer")
        return await there(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.registry, "set_steps", away)
        version = await place.proved({"m.pkl": (trained / "m.pkl").read_bytes()})

    assert version.state is State.READY


async def test_a_mistake_of_the_platform_fails_one_version_and_stops_nothing(
    place: Place, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "identified", broken)
    version = await place.proved({"m.pkl": (trained / "m.pkl").read_bytes()})
    assert version.state is State.FAILED
    assert outcomes(version)["identified"] is Outcome.FAILED
    monkeypatch.undo()

    again = await place.registry.set_state(version.id, State.SCANNING, "again", expected={State.FAILED})
    assert (await place.ended(again)).state is State.READY


async def test_a_model_is_proved_in_the_base_that_is_locked(place: Place, trained: Path) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kubeserve-tests" / "platform"
    place.environments = Environments(cache)
    place.intake = place.new()

    version = await place.proved({"m.joblib": (trained / "m.joblib").read_bytes(), "requirements.txt": b"pandas>=2"})

    assert (version.state, version.state_reason) == (State.READY, "proved")


async def crash(place: Place, version: Version, attempt: int) -> None:
    """Leave the version as a platform does that is killed while it identifies it."""
    steps = [*(await place.registry.find(version.id)).steps]
    steps = [step for step in steps if step.outcome is not Outcome.RUNNING]
    steps += [Step("interrupted", Outcome.FAILED, None, "")] if attempt > 1 else []
    running = Step("identified", Outcome.RUNNING, None, "")
    await place.registry.set_state(
        version.id, State.SCANNING, "", expected={State.SCANNING}, attempt=attempt, steps=[*steps, running]
    )
    await asyncio.to_thread(shutil.rmtree, place.work, ignore_errors=True)


def held_scan(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The scan never ends; set when it has begun."""
    begun = asyncio.Event()

    async def held(*_: object) -> Imports:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(pipeline, "scanned", held)
    return begun


def running(folder: Path) -> list[str]:
    """The processes of this test's proofs, by their working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(process.readlink()).startswith(str(folder)):
                found.append(process.parent.name)
        except OSError:
            continue
    return found


FORGES = "class Model: pass\nimport os\nos.write(3, b'%s\\n%s\\n')\nos._exit(1)"
LOADED = (
    '{"step":"loaded","seconds":0,"kind":"x","signature":{"kind":"tabular","features":null,"inputs":[],"outputs":[],'
    '"classes":null}}'
)


async def test_a_model_that_forges_that_rows_are_missing_is_asked_those_that_are_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed(monkeypatch)
    forged = pickled(FORGES % (LOADED, '{"error":{"code":"sample_needed"}}'))
    version = await place.proved({"m.pkl": forged, "sample.json": b"[[1]]"})
    assert (version.state, version.state_reason) == (State.REJECTED, "it does not predict: sample_needed")


@contextmanager
def _small(place: Path, options: str) -> Iterator[None]:
    """A disk of 1 MiB: a real one where these tests may mount it, else a limit on files."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=False, capture_output=True)  # noqa: S603, S607
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if mounted.returncode:
        if "inodes" in options:
            pytest.skip("needs to mount a file system")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if not mounted.returncode:
            subprocess.run(["umount", "-l", place], check=True)  # noqa: S603, S607


@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=1m", "the disk is full|File too large"), ("size=1m,nr_inodes=2", "No space left on device")],
)
async def test_a_disk_that_is_full_is_told_and_the_proof_goes_on_when_there_is_room(
    place: Place, trained: Path, tmp_path: Path, options: str, reason: str
) -> None:
    disk = tmp_path / "disk"
    model = (trained / "m.pkl").read_bytes()
    unused = b"B" + struct.pack("<I", 4 << 20) + bytes(4 << 20) + b"0"  # bytes that are put on the stack, and dropped
    content = model[:2] + unused + model[2:]
    version = await place.uploaded({"m.pkl": content})
    with _small(disk, options):
        place.intake = Intake(place.registry, place.objects, place.environments, disk / "work", place.settings)
        failed = await place.ended(version)
    assert failed.state is State.FAILED
    assert re.search(reason, failed.state_reason)
    assert str(tmp_path) not in failed.state_reason
    place.intake = place.new()
    await place.registry.set_state(version.id, State.SCANNING, "again", expected={State.FAILED})
    assert (await place.ended(version)).state is State.READY
