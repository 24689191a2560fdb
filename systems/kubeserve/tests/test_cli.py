"""The commands of `kubeserve` as people type them, against an `up` of their own."""

import io
import json
import os
import pty
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml
from greenscale_worker import ConfigError
from harness.eventually import eventually
from harness.terminal import read_terminal

from kubeserve.cli import COMMANDS, accounts, main, predict, session
from kubeserve.cli.upload import Bar
from kubeserve.client import KubeServe
from kubeserve.errors import ForbiddenError, LimitedError, NotFoundError, UnauthenticatedError
from processes import COMMAND, PASSWORD, Up

MODEL = Path(__file__).parents[1] / "e2e" / "iris.onnx"
ROW = "5.1,3.5,1.4,0.2"
LOGIN = '{"auths": {"registry.test": {"auth": "dXNlcjp0b2tlbg=="}}}'


@pytest.fixture
async def up(tmp_path: Path, science: Path) -> AsyncIterator[Up]:
    (login := tmp_path / "config.json").write_text(LOGIN)
    async with Up(tmp_path, science, KUBESERVE_REGISTRY_FILE=str(login)) as running:
        yield running


@pytest.mark.timeout(300)  # some thirty commands, each a process
async def test_the_whole_way_by_commands(up: Up) -> None:
    def said(*words: str, given: str = "") -> str:
        return up.command(*words, given=given).stdout

    nobody = up.command("me", check=False)
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)
    assert "kubeserve login EMAIL" in nobody.stderr
    up.command("register", "anna@example.org", given=f"{PASSWORD}\n")
    kept = up.folder / "config" / "kubeserve" / "login.json"
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert PASSWORD not in kept.read_text()
    assert "anna@example.org" in said("me")

    assert said("models") == "There are no models.\n"
    shown = said("upload", "iris:v1", str(MODEL))
    assert "  predicted" in shown
    assert "next: kubeserve deploy iris:v1" in shown
    again = up.command("upload", "iris:v1", str(MODEL), check=False)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "it was proved before, in " in said("watch", "iris:v1")
    assert json.loads(said("versions", "iris", "--json"))[0]["state"] == "ready"

    assert "/api/v1/predict/" in said("deploy", "iris:v1", "--name", "flowers", "--idle", "30s")
    assert json.loads(said("predict", "flowers", ROW))["label"] == 0
    (rows := up.folder / "rows.csv").write_text("a,b,c,d\n5.1,3.5,1.4,0.2\n7.7,3.0,6.1,2.3\n")
    rows_of_lists = "[5.1, 3.5, 1.4, 0.2]\n[7.7, 3.0, 6.1, 2.3]"
    answer = json.loads(said("predict", "flowers", "--json", given=rows_of_lists))
    assert [each["label"] for each in answer["predictions"]] == [0, 2]
    assert up.command("predict", "flowers", "--file", str(rows), check=False).returncode == 1  # other names
    assert "2" in said("deploy", "iris:v1", "--name", "flowers", "--concurrency", "8")
    up.command("rollback", "flowers")
    flowers = json.loads(said("deployments", "flowers", "--json"))["id"]
    check_manifests(up)
    key = said("keys", "create", "shop", "--deployment", "flowers").strip()
    assert key.startswith("ks_")
    assert "flowers" in said("keys")
    twice = up.command("keys", "create", "shop", check=False)
    assert (twice.returncode, "called 'shop' already" in twice.stderr) == (1, True)
    assert [line.split()[:2] for line in said("deployments", "flowers").splitlines()[-2:]] == [
        ["2", "iris:v1"],
        ["1", "iris:v1"],
    ]
    assert "give its id" in up.command("predict", "flowers", ROW, check=False, KUBESERVE_TOKEN=key).stderr
    assert json.loads(up.command("predict", flowers, ROW, KUBESERVE_TOKEN=key).stdout)["label"] == 0
    up.command("keys", "revoke", key[:19])
    assert "\x1b" not in said("logs", "flowers")

    up.command("stop", "flowers")
    stopped = up.command("predict", "flowers", ROW, check=False)
    assert (stopped.returncode, stopped.stderr.count("\n")) == (1, 1)
    up.command("start", "flowers")
    assert json.loads(said("predict", "flowers", ROW))["label"] == 0
    meant = up.command("predict", "flower", ROW, check=False)
    assert (meant.returncode, "did you mean flowers?" in meant.stderr) == (3, True)
    for words in (["models"], ["versions", "iris"], ["deployments"], ["keys"]):
        assert max(map(len, said(*words).splitlines())) < 80
    up.command("delete", "flowers")
    up.command("logout")
    assert up.command("models", check=False).returncode == 1


def check_manifests(up: Up) -> None:
    """They are shown, and written to a folder that kubectl renders; what was set there stays."""
    shown = list(yaml.safe_load_all(up.command("manifests", "flowers").stdout))
    kinds = [each["kind"] for each in shown]
    assert {"Namespace", "ResourceQuota", "NetworkPolicy", "Deployment", "ScaledObject"} <= set(kinds)
    (deployment,) = (each for each in shown if each["kind"] == "Deployment")
    assert "environment" not in {each["name"] for each in deployment["spec"]["template"]["spec"]["volumes"]}, "the base"
    for values in (each["stringData"] for each in shown if each["kind"] == "Secret"):
        (name,) = values.keys() - {"REDIS_USERNAME"}
        assert "SET-ME: " in values[name]
    assert [each for each in shown if each.get("type") == "kubernetes.io/dockerconfigjson"], "less the platform's login"
    folder = up.folder / "on-a-cluster"
    written = up.command("manifests", "flowers", "--to", str(folder)).stdout.splitlines()
    assert {Path(line).name for line in written} == {path.name for path in folder.iterdir()}
    assert len(written) == len(shown) + 1
    secret = folder / "secret-redis.yaml"
    secret.write_text(secret.read_text().replace("SET-ME: ", "is set: "))
    assert "secret-redis.yaml stays as it is." in up.command("manifests", "flowers", "--to", str(folder)).stderr
    assert "is set: " in secret.read_text()
    if kubectl := shutil.which("kubectl"):
        rendered = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True)
        assert sorted(each["kind"] for each in yaml.safe_load_all(rendered.stdout)) == sorted(kinds)
    (up.folder / "config.json").write_text("{}")
    refused = up.command("manifests", "flowers", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "no cluster could run it as this platform is set up: KUBESERVE_REGISTRY_FILE: " in refused.stderr


async def test_usage_and_limits_by_commands(up: Up) -> None:
    def said(*words: str) -> str:
        return up.command(*words).stdout

    up.command("register", "anna@example.org", given=f"{PASSWORD}\n")
    assert said("usage") == "Nothing was used.\n"
    up.command("upload", "iris:v1", str(MODEL))
    up.command("deploy", "iris:v1", "--requests-per-minute", "12")
    assert "12 requests a minute" in said("deployments", "iris")
    for rows in ((ROW,), (ROW, ROW)):
        up.command("predict", "iris", *rows)
    await eventually(lambda: [line.split()[:4] for line in said("usage").splitlines()[1:]] == [["iris", "2", "0", "3"]])
    assert said("usage", "iris", "--last", "2h").splitlines()[-1].split()[:4] == ["total", "2", "0", "3"]
    assert json.loads(said("usage", "iris", "--json", "--step", "1h"))["step"] == 3600
    wrong = up.command("usage", "iris", "--step", "61s", check=False)
    assert (wrong.returncode, "step: " in wrong.stderr) == (1, True)

    slow = said("keys", "create", "slow", "--requests-per-minute", "1", "--expires", "1h").strip()
    assert [line.split()[1:4] for line in said("keys").splitlines() if "slow" in line] == [["valid", "all", "1/min"]]
    with KubeServe(up.url, key=slow, patience=0.1) as program:
        deployment = json.loads(said("deployments", "iris", "--json"))["id"]
        assert program.predict(deployment, [[5.1, 3.5, 1.4, 0.2]])["predictions"][0]["label"] == 0
        with pytest.raises(LimitedError, match="the key's limit is 1 requests a minute; try again in"):
            program.predict(deployment, [[5.1, 3.5, 1.4, 0.2]])
    assert "slow may ask for 600 predictions a minute" in up.command("keys", "limit", "slow", "600").stderr
    assert [line.split()[3] for line in said("keys").splitlines() if "slow" in line] == ["600/min"]
    assert "slow has no limit" in up.command("keys", "limit", "slow", "none").stderr
    assert json.loads(said("keys", "--json"))[0]["requests_per_minute"] is None
    up.command("limit", "iris", "none")
    assert "a minute" not in said("deployments", "iris")
    assert "7 requests a minute" in up.command("limit", "iris", "7").stderr


def test_which_key_is_meant() -> None:
    def key(name: str, prefix: str, revoked_at: str | None = None) -> dict[str, str | None]:
        created_at = "2026-01-01T00:00:00+00:00"
        return {"id": f"id{prefix}", "name": name, "prefix": prefix, "revoked_at": revoked_at, "created_at": created_at}

    revoked = key("shop", "ks_1", "2026-01-02T00:00:00+00:00")
    found = [revoked, key("shop", "ks_2"), key("shop", "ks_3"), key("me", "ks_4")]
    assert accounts._meant(found, "me")["prefix"] == "ks_4"
    assert accounts._meant(found, "ks_3")["prefix"] == "ks_3"
    with pytest.raises(ConfigError, match=r"2 keys are called 'shop'(.|\n)*ks_2(.|\n)*ks_3"):
        accounts._meant(found, "shop")
    with pytest.raises(NotFoundError, match="no key 'ks_1'"):
        accounts._meant(found, "ks_1")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MagicMock:
    """A client in whose place a test answers."""
    api = MagicMock()
    api.__enter__.return_value = api
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(session, "connect", lambda **_: api)
    return api


def test_a_proof_that_is_over_is_told_as_it_was(
    api: MagicMock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = ("scanned", "loaded")
    steps = [{"name": name, "outcome": "done", "seconds": 1.25, "detail": "x" * 80} for name in names]
    ready = {"id": "v", "tag": "v1", "state": "ready", "steps": steps}
    api.models.return_value, api.versions.return_value = [{"name": "iris", "id": "m"}], [ready]

    def follow(_id: str, tell: Callable[[dict], None]) -> dict:
        for step in steps:
            tell(step)
        return ready

    api.wait_until_ready = follow
    assert main(["watch", "iris:v1"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [(len(line), line[-1]) for line in lines] == [(40, "…")] * 2
    assert last == "it was proved before, in 2.5 s; next: kubeserve deploy iris:v1"


def test_a_deployment_is_shown_with_its_revisions(api: MagicMock, capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime.now(UTC).isoformat()
    spec = {"minimum": 0, "maximum": 5, "memory": 2**30, "created_at": at}
    revisions = [{"number": number, "version_id": f"id{number}", **spec} for number in (1, 2, 3)]
    said = {"state": "ready", "state_reason": "", "created_at": at, "url": "http://x", "curl": "curl x", "replicas": 1}
    said |= {"requests_per_minute": 600}
    named = {"id": "d", "name": "iris", "model": "iris", "version": "v2", "model_id": "m"}
    numbers = {"active_revision": 2, "target_revision": 3}
    api.deployments.return_value = [{**said, **named, **numbers, "revisions": revisions}]
    api.versions.return_value = [{"id": f"id{number}", "tag": f"v{number}"} for number in (1, 2, 3)]
    assert main(["deployments", "iris"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [(line[0], line[1], line[5:]) for line in shown] == [
        ("3", "iris:v3", ["wanted"]),
        ("2", "iris:v2", ["active"]),
        ("1", "iris:v1", []),
    ]


def test_that_nothing_was_written_is_told_beside_the_output(api: MagicMock, capsys: pytest.CaptureFixture[str]) -> None:
    api.deployments.return_value = [{"id": "d", "name": "iris"}]
    api.logs.return_value = iter(())
    assert main(["logs", "iris"]) == 0
    assert capsys.readouterr() == ("", "Nothing was written yet.\n")


def test_a_name_is_of_a_deployment_of_one_model(api: MagicMock, capsys: pytest.CaptureFixture[str]) -> None:
    api.models.return_value = [{"name": "iris2", "id": "m2"}]
    api.versions.return_value = [{"tag": "v1", "id": "v", "model_id": "m2"}]
    api.deployments.return_value = [{"name": "iris", "id": "d", "model_id": "m1", "model": "iris"}]
    assert main(["deploy", "iris2:v1", "--name", "iris"]) == 1
    assert "you have a deployment called 'iris' already" in capsys.readouterr().err


def test_a_key_of_one_deployment_predicts_by_its_id(api: MagicMock, capsys: pytest.CaptureFixture[str]) -> None:
    api.deployments.side_effect = api.deployment.side_effect = ForbiddenError("this key is for predictions")
    api.predict.return_value = {"predictions": [7]}
    assert main(["predict", "00000000-0000-4000-8000-000000000000", ROW]) == 0
    assert capsys.readouterr().out == "7\n"
    assert main(["predict", "iris", ROW]) == 1
    assert "give its id: kubeserve predict ID …" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "log in by `kubeserve login EMAIL`, or make an account"),
        ("old", "expired; `kubeserve login EMAIL` logs in"),
    ],
)
def test_who_is_not_known_is_told_how_to_log_in(
    token: str,
    words: str,
    api: MagicMock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KUBESERVE_TOKEN", token)
    api.me.side_effect = UnauthenticatedError("the token is expired")
    assert main(["me"]) == 1
    assert words in capsys.readouterr().err


def test_an_address_is_refused_before_a_password_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accounts, "_password", pytest.fail)
    assert main(["register", "anna"]) == 2
    assert "'anna': an address such as name@example.org is accepted" in capsys.readouterr().err


def test_a_new_password_is_asked_for_with_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin", MagicMock())
    monkeypatch.setattr("getpass.getpass", lambda text: asked.append(text) or "secret")
    assert accounts._password(again=True) == "secret"
    assert asked == ["Password (12 characters or more): ", "Once more: "]


def test_a_wrong_password_is_told_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    api = MagicMock()
    api.__enter__.return_value.login.side_effect = UnauthenticatedError("the password is wrong")
    monkeypatch.setattr(accounts, "KubeServe", lambda *_, **__: api)
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong\n"))
    assert main(["login", "anna@example.org"]) == 1
    assert capsys.readouterr().err == "kubeserve login: the password is wrong\n"


def test_nobody_answers(tmp_path: Path) -> None:
    environment = {**os.environ, "KUBESERVE_URL": "http://127.0.0.1:9", "XDG_CONFIG_HOME": str(tmp_path)}
    words = [COMMAND, "predict", "iris", ROW]  # given up long before the patience with a server that was there is over
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 4
    told = "nothing answers at http://127.0.0.1:9; is `kubeserve up` running? KUBESERVE_URL names another address"
    assert ended.stderr == f"kubeserve predict: {told}\n"


def test_a_progress_bar_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        bar = Bar("iris.onnx", stream)
        bar(0, 2_000_000)
        bar(1_000_000, 2_000_000)
        bar.end()
    shown = read_terminal(ours)
    assert "1.0 MB of 2.0 MB" in shown
    assert shown.count("█") == 15


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_fits_a_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: kubeserve {name}")
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ("[1, 2]", [[1, 2]]),
        ('{"instances": [[1]]}', [[1]]),
        ('{"a": 1}', [{"a": 1}]),
        ('[1, 2]\n{"a": 1}\n\n3,x,\n', [[1, 2], {"a": 1}, [3, "x", None]]),
    ],
)
def test_rows_are_read(text: str, rows: list, tmp_path: Path) -> None:
    (path := tmp_path / "rows").write_text(text)
    assert predict._read(path) == rows


@pytest.mark.parametrize(("text", "words"), [("[1, 2", "line 1"), ("", "no rows"), ("\xff", "UTF-8")])
def test_what_is_no_row_is_said(text: str, words: str, tmp_path: Path) -> None:
    (path := tmp_path / "rows").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=words):
        predict._read(path)
