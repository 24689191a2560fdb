"""Settings: one line for what is wrong, secrets that are not shown, and one that is made once."""

import asyncio
from pathlib import Path

import pytest
from greenscale_worker import ConfigError

from kubeserve.database import open_database
from kubeserve.settings import Settings

HIDDEN = "a-secret-of-thirty-two-characters-or-more"


def test_without_an_environment_there_are_defaults(tmp_path: Path) -> None:
    settings = Settings.from_env({"KUBESERVE_DATA": str(tmp_path), "UNRELATED": "x"})
    assert (settings.host, settings.port, settings.ingress_base_path) == ("127.0.0.1", 8600, "/api/v1/predict")
    assert (settings.quota_replicas, settings.quota_memory) == (5, 4 * 1024**3)
    assert settings.database == f"sqlite:///{tmp_path}/kubeserve.db"
    assert settings.objects_url == f"{tmp_path}/objects"
    assert settings.minimum == {"landlock": 1, "seccomp": True}
    assert Settings.from_env({"KUBESERVE_WALLS": "none"}).minimum == {}


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_an_empty_variable_is_as_good_as_none(empty: str) -> None:
    names = [str(field.alias) for field in Settings.model_fields.values()]
    names += [f"{name}_FILE" for name in names]
    assert Settings.from_env(dict.fromkeys(names, empty)) == Settings.from_env({})


def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_port() -> None:
    assert Settings.from_env({"KUBESERVE_PORT": "tcp://10.0.0.1:80"}).port == 8600


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("KUBESERVE_PORT", "0", "greater than or equal to 1"),
        ("KUBESERVE_PORT", "http", "valid integer"),
        ("KUBESERVE_WALLS", "landlock moat", "landlock, seccomp or both are accepted, or none"),
        ("KUBESERVE_HOST", "a b", "the name or the address of a host is accepted"),
        ("KUBESERVE_DATABASE_URL", "mysql://host/name", "sqlite:///PATH or postgresql://"),
        ("KUBESERVE_OBJECTS", "https://bucket", "the path of a directory, or s3://BUCKET/PREFIX, is accepted"),
        ("KUBESERVE_SECRET", "short", "at least 32 characters are accepted"),
        ("KUBESERVE_TOKEN_TTL", "nan", "less than or equal to 31536000"),
        ("KUBESERVE_QUOTA_REPLICAS", "0", "greater than or equal to 1"),
        ("KUBESERVE_QUOTA_MEMORY", "4Gi", "valid integer"),
        ("INGRESS_BASE_PATH", "predict", "a path that begins with '/' is accepted"),
        ("KUBESERVE_TRUSTED_PROXIES", "10.0.0.0/8 here", "addresses or networks, with spaces between them"),
        ("KUBESERVE_QUOTA_STORAGE", "20Gi", "valid integer"),
        ("KUBESERVE_QUOTA_ANSWERS", "1", "greater than or equal to 1048576"),
        ("GRAFANA_URL", "ftp://host", "http://HOST:PORT or https://HOST is accepted"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variable_and_what_is_accepted(name: str, value: str, accepted: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Settings.from_env({name: value})
    assert str(refused.value).startswith(f"{name}: ")
    assert accepted in str(refused.value)
    assert "\n" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    url = "postgresql://user:hunter-two@host/name"
    settings = Settings.from_env({"KUBESERVE_SECRET": HIDDEN, "KUBESERVE_DATABASE_URL": url})
    assert settings.signing_secret() == HIDDEN.encode()
    assert settings.database == url
    assert HIDDEN not in f"{settings!r}{settings}{settings.model_dump_json()}"
    assert "hunter-two" not in f"{settings!r}{settings}{settings.model_dump_json()}"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{HIDDEN}\n")
    assert Settings.from_env({"KUBESERVE_SECRET_FILE": str(path)}).signing_secret() == HIDDEN.encode()
    with pytest.raises(ConfigError, match="KUBESERVE_SECRET and KUBESERVE_SECRET_FILE contradict each other"):
        Settings.from_env({"KUBESERVE_SECRET_FILE": str(path), "KUBESERVE_SECRET": HIDDEN})
    with pytest.raises(ConfigError, match=r"KUBESERVE_SECRET_FILE: .*: No such file or directory; a file with"):
        Settings.from_env({"KUBESERVE_SECRET_FILE": str(tmp_path / "none")})


async def test_a_secret_is_made_once_by_whoever_is_first_and_kept_for_its_owner(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    data.mkdir(parents=True)
    (data / ".secret").touch()  # of a process that died while it made one
    settings = Settings.from_env({"KUBESERVE_DATA": str(data)})
    made = await asyncio.gather(*(asyncio.to_thread(settings.signing_secret) for _ in range(50)))
    assert len(set(made)) == 1
    assert len(made[0]) == 64
    assert settings.signing_secret() == made[0]
    assert [(path.name, path.stat().st_mode & 0o777) for path in data.iterdir()] == [("secret", 0o600)]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings.from_env({"KUBESERVE_DATA": str(tmp_path / "file")})
    with pytest.raises(ConfigError, match=r"KUBESERVE_DATA: .*/file/secret: .*; a directory to write is accepted"):
        settings.signing_secret()


async def test_the_default_database_opens_where_nothing_is_yet(tmp_path: Path) -> None:
    settings = Settings.from_env({"KUBESERVE_DATA": str(tmp_path / "data")})
    database = await open_database(settings.database)
    await database.migrate()
    await database.aclose()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["kubeserve.db"]
