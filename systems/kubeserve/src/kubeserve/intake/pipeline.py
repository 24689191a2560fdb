"""Takes uploads through their proof: identified, scanned, environment, loaded, predicted."""

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Final, Protocol

from packaging.requirements import Requirement
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from kubeserve.domain import (
    LARGEST_REQUIREMENTS,
    LARGEST_SAMPLE,
    REQUIREMENTS,
    SAMPLE,
    SUFFIXES,
    File,
    Version,
    VersionState,
)  # fmt: skip
from kubeserve.errors import ConflictError, KubeServeError, NotFoundError
from kubeserve.intake.environments import Environment, Environments
from kubeserve.intake.identify import Identity
from kubeserve.intake.inspection import identified, scanned
from kubeserve.intake.progress import Progress, SupersededError, Versions, when_there
from kubeserve.intake.prove import Bounds, Proof, prove
from kubeserve.intake.requirements import RequirementsError, parse_requirements
from kubeserve.intake.scan import Imports
from kubeserve.intake.verdicts import FailedError, RejectedError

State = VersionState
BEGUN: Final = frozenset({State.SCANNING, State.BUILDING, State.CHECKING})
MOST_INTERRUPTIONS: Final = 3
LONGEST_REASON: Final = 500
LARGEST_EXAMPLE: Final = 4096  # characters of JSON: it is told with the version wherever that is
UNASKED: Final = f"proved to load; not asked: give {SAMPLE}"
ROWS: Final[TypeAdapter[list[JsonValue]]] = TypeAdapter(Annotated[list[JsonValue], Field(min_length=1)])
NAMED: Final = 8  # names of imports that a step's one line shows

logger = logging.getLogger(__name__)


class Fetched(Protocol):
    """What came."""

    @property
    def sha256(self) -> str:
        """In hex."""
        ...


class Objects(Protocol):
    """What the store of files does for a proof; see `kubeserve.objects`."""

    def fetch(self, key: str, path: Path) -> Awaitable[Fetched]:
        """Write a file's content to a path. Raises KubeServeError."""
        ...


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """Proofs that run at the same time, and what each may take."""

    at_once: int = 1
    bounds: Bounds = field(default_factory=Bounds)


class Intake:
    """Proves what is submitted, in the order in which it came. `work` is a directory of its own."""

    def __init__(
        self, versions: Versions, objects: Objects, environments: Environments, work: Path, settings: IntakeSettings
    ) -> None:
        self._versions = versions
        self._objects = objects
        self._environments = environments
        self._work = work
        self._bounds = settings.bounds
        self._turns = asyncio.Semaphore(settings.at_once)
        self._proofs: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether a proof runs or waits for its turn."""
        return bool(self._proofs)

    async def start(self) -> None:
        """Begin again what the last process left unfinished."""
        await asyncio.to_thread(shutil.rmtree, self._work, ignore_errors=True)
        for version in await when_there(self._versions.unfinished):
            self.submit(version.id)

    def submit(self, version_id: str) -> None:
        """Prove a version that is `scanning`; again is fine, and looks at it again once its proof has ended."""
        if version_id in self._proofs:
            self._again.add(version_id)
            return
        task = asyncio.create_task(self._in_turn(version_id), name=f"proof of {version_id}")
        self._proofs[version_id] = task
        task.add_done_callback(lambda _: self._done(version_id))

    async def cancel(self, version_id: str) -> None:
        """End the proof, as when its version is deleted; afterwards no process and no file of it is left."""
        self._again.discard(version_id)
        if task := self._proofs.get(version_id):
            task.cancel()
            await asyncio.wait([task])

    async def aclose(self) -> None:
        """End all proofs; the next start begins them again, and does not count them as interrupted."""
        for version_id in list(self._proofs):
            await self.cancel(version_id)

    def _done(self, version_id: str) -> None:
        del self._proofs[version_id]
        if version_id in self._again:
            self._again.remove(version_id)
            self.submit(version_id)

    async def _in_turn(self, version_id: str) -> None:
        async with self._turns:
            try:
                version = await when_there(lambda: self._versions.find(version_id))
                if version.state in BEGUN:
                    await self._attempt(version)
            except (SupersededError, ConflictError, NotFoundError):
                return  # it was deleted, or another process proves it
            except Exception:
                logger.exception("the proof of version %s broke", version_id)

    async def _attempt(self, version: Version) -> None:
        """One attempt, to an end that is written down whatever happens."""
        progress = Progress(self._versions, version)
        await progress.begin()
        work = self._work / version.id
        try:
            await asyncio.to_thread((work / "scratch").mkdir, mode=0o700, parents=True)
            await self._prove(version, progress, work)
        except RejectedError as error:
            await progress.move(State.REJECTED, _line(error))
        except FailedError as error:
            await progress.move(State.FAILED, _line(error))
        except (SupersededError, ConflictError, NotFoundError):
            raise
        except OSError as error:  # of our own folder; the model's errors are no exceptions here
            reason = f"the disk for proofs cannot be written: {error.strerror}; it may be tried again"
            await progress.move(State.FAILED, reason)
        except asyncio.CancelledError:
            with suppress(KubeServeError):
                await progress.put_back()
            raise
        except Exception:
            logger.exception("the proof of version %s broke", version.id)
            await progress.move(State.FAILED, "the platform made a mistake, which is in its log; it may be tried again")
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def _prove(self, version: Version, progress: Progress, work: Path) -> None:
        async with progress.step("identified") as say:
            if progress.interruptions >= MOST_INTERRUPTIONS:
                raise FailedError(f"the platform itself ended {progress.interruptions} times during this proof")
            file = _model_of(version)
            model = await self._fetched(file, work)
            identity = await identified(model, file.name)
            sample = await self._sample(version, work)
            say(str(identity))
        async with progress.step("scanned") as say:
            say(_of_imports(await scanned(model, identity)))
        await progress.move(State.BUILDING, "its environment is prepared", format=identity.format)
        async with progress.step("environment") as say:
            environment = await self._environment(version, work)
            say(_of_environment(environment))
        await progress.move(State.CHECKING, "it is loaded and asked once", environment=environment.id)
        async with progress.step("loaded") as say:
            proof = await self._proof(environment, model, identity, work / "scratch", sample)
            say(f"{proof.kind}, in {proof.load_seconds:.3g} s")
        asked = "asked for one row" if proof.predictions == 1 else f"asked for {proof.predictions} rows"
        await progress.note("predicted", proof.predict_seconds, proof.not_asked or asked)
        reason = UNASKED if proof.not_asked else "proved"
        await progress.move(State.READY, reason, signature=proof.signature | _example(sample), level=proof.level)

    async def _fetched(self, file: File, work: Path) -> Path:
        """The file as it was uploaded, under its own suffix alone: its name is the uploader's."""
        beside = file.name in {REQUIREMENTS, SAMPLE}
        path = work / (file.name if beside else f"model{PurePath(file.name).suffix.lower()}")
        try:
            fetched = await self._objects.fetch(file.key, path)
        except KubeServeError as error:
            raise FailedError(f"{file.name} cannot be fetched from the store of files: {error}") from None
        except OSError as error:
            raise FailedError(f"{file.name} cannot be fetched to be proved: {error.strerror}") from None
        if fetched.sha256 != file.sha256:
            raise FailedError(f"{file.name} has changed in the store of files: its SHA-256 is another one")
        return path

    async def _environment(self, version: Version, work: Path) -> Environment:
        requirements: tuple[Requirement, ...] = ()
        for file in version.files:
            if file.name == REQUIREMENTS:
                path = await self._fetched(file, work)
                requirements = _parsed(path)
        await self._environments.base()  # it is what the others are made from
        return await self._environments.prepare(version.owner_id, requirements)

    async def _sample(self, version: Version, work: Path) -> list[JsonValue] | None:
        file = next((file for file in version.files if file.name == SAMPLE), None)
        return None if file is None else _rows(await self._fetched(file, work))

    async def _proof(
        self, environment: Environment, model: Path, identity: Identity, scratch: Path, sample: list[JsonValue] | None
    ) -> Proof:
        python = environment.path / "bin" / "python"
        return await prove(python, model, identity.format, scratch, self._bounds, sample=sample)


def _model_of(version: Version) -> File:
    models = [file for file in version.files if PurePath(file.name).suffix.lower() in SUFFIXES]
    if len(models) != 1:
        raise RejectedError(f"{len(models)} models were uploaded; one is accepted, as {' '.join(SUFFIXES)}")
    return models[0]


def _parsed(path: Path) -> tuple[Requirement, ...]:
    if path.stat().st_size > LARGEST_REQUIREMENTS:
        raise RejectedError(f"{REQUIREMENTS} has more than {LARGEST_REQUIREMENTS} bytes")
    try:
        return parse_requirements(path.read_bytes())
    except RequirementsError as error:
        raise RejectedError(f"{REQUIREMENTS}: {error}") from None


def _rows(path: Path) -> list[JsonValue]:
    if path.stat().st_size > LARGEST_SAMPLE:
        raise RejectedError(f"{SAMPLE} has more than {LARGEST_SAMPLE} bytes")
    try:
        return ROWS.validate_json(path.read_bytes())
    except ValidationError:
        raise RejectedError(f"{SAMPLE} is no JSON list of at least one row, as [[1.5, 2], [3, 4]]") from None


def _example(sample: list[JsonValue] | None) -> dict[str, JsonValue]:
    """Give the row that the page and the command of a deployment begin with."""
    return {"example": sample[0]} if sample and len(json.dumps(sample[0])) <= LARGEST_EXAMPLE else {}


def _of_imports(imports: Imports) -> str:
    said = f"{len(imports.names)} names, all known" if not imports.unknown else f"{len(imports.names)} names"
    if imports.unknown:
        more = f" and {len(imports.unknown) - NAMED} more" if len(imports.unknown) > NAMED else ""
        said += f", not known here: {', '.join(imports.unknown[:NAMED])}{more}"
    return f"{said}; {imports.incomplete}" if imports.incomplete else said


def _of_environment(environment: Environment) -> str:
    return f"{len(environment.packages)} packages, {'built' if environment.built else 'there already'}"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"
