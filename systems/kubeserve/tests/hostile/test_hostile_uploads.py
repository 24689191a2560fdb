"""Whatever is uploaded, it is told what it is or refused in words; nothing of it runs, and the platform goes on."""

import os
import pickle
import resource
import sys
import zlib
from pathlib import Path

import pytest

from hostile.uploads import CASES, PLAIN, Case, calls
from kubeserve.domain import Format
from kubeserve.intake import inspection
from kubeserve.intake.identify import Identity, identify
from kubeserve.intake.inspection import identified, scanned
from kubeserve.intake.scan import scan
from kubeserve.intake.verdicts import FailedError, RejectedError
from models import make, of_python


def rejection(path: Path, name: str) -> str | None:
    try:
        scan(path, identify(path, name), seconds=60)
    except RejectedError as error:
        return str(error)
    return None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_file_ends_as_the_table_says(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(case.content())

    reason = rejection(path, case.name)

    if case.ends is None:
        assert reason is None
    else:
        assert reason is not None
        assert case.ends in reason
        assert "\n" not in reason


async def test_what_a_scan_cannot_finish_is_told_and_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"\x80\x02]" + b"K\x01a" * 3_000_000 + b".")

    found = await scanned(path, Identity(Format.PICKLE), seconds=0.01)

    assert "the time was up" in found.incomplete


async def test_names_that_are_not_known_are_told(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(calls("my_package.models", "Own", 1)())

    found = await scanned(path, Identity(Format.PICKLE))

    assert found.unknown == ("my_package.models.Own",)


def test_a_model_that_brings_its_class_by_cloudpickle_is_told_and_not_refused(tmp_path: Path, science: Path) -> None:
    path = make(science, tmp_path / "content", of_python("return rows"))

    found = scan(path, identify(path, "own.pickle"), seconds=60)

    assert "cloudpickle.cloudpickle._make_skeleton_class" in found.unknown


class Mine:
    """A model that its owner's script defines."""


def test_a_class_of_the_owners_script_is_not_called_malicious(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mine, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Mine", Mine, raising=False)
    path = tmp_path / "content"
    path.write_bytes(pickle.dumps(Mine()))

    reason = rejection(path, "own.pickle")

    assert reason is not None
    assert reason.startswith("its Mine is defined in your script, which is not there; save the model with cloudpickle")


def test_a_gadget_beside_a_class_of_the_owners_script_is(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"c__main__\nMine\n0cos\nsystem\n(S'id'\ntR.")

    assert (rejection(path, "own.pickle") or "").startswith("malicious: ")


@pytest.mark.parametrize("case", [case for case in CASES if "bomb" in str(case) or "system" in str(case)], ids=str)
async def test_its_own_process_says_the_same(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(case.content())

    with pytest.raises(RejectedError, match=case.ends):
        await scanned(path, await identified(path, case.name))


async def test_an_inspection_that_takes_too_much_ends_alone(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(zlib.compress(PLAIN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "LIMITS", {resource.RLIMIT_CPU: 0})

        with pytest.raises(RejectedError, match="telling its format was ended by"):
            await identified(path, "m.joblib")
        assert "not looked into" in (await scanned(path, Identity(Format.PICKLE))).incomplete


async def test_a_scan_that_hangs_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "content")  # opening it waits for a writer that never comes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "SLACK", 3.0)

        found = await scanned(tmp_path / "content", Identity(Format.PICKLE), seconds=0)

    assert found.incomplete == "not looked into: the scan took too long and was ended"


async def test_an_inspection_that_does_not_begin_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "content"
    path.write_bytes(PLAIN)
    monkeypatch.setattr("sys.executable", "/bin/false")

    with pytest.raises(FailedError, match="did not begin"):
        await identified(path, "a.pkl")
