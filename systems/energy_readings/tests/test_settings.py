"""Settings: GreenScale's names for Redis, and one line for what is wrong."""

from pathlib import Path

import pytest
from greenscale_worker import ConfigError

from energy_readings.connection import connect
from energy_readings.settings import Settings, read


def test_without_an_environment_there_are_defaults() -> None:
    settings = read({"REDIS_PASSWORD": " ", "UNRELATED": "x"})
    assert (settings.redis_host, settings.redis_port, settings.stream) == ("127.0.0.1", 6379, "energy_readings")
    assert (settings.ingest_port, settings.readings_port, settings.page_port) == (8000, 8001, 3000)
    assert settings.ingest == "http://127.0.0.1:8000"


def test_a_password_may_come_from_a_file_and_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("open-sesame\n")
    settings = read({"REDIS_PASSWORD_FILE": str(path)})
    assert settings.redis_password is not None
    assert settings.redis_password.get_secret_value() == "open-sesame"
    assert "open-sesame" not in repr(settings)


@pytest.mark.parametrize("unit", ["W", "kW", "MVA", "var", "kWh"])
def test_units_of_power_and_energy_are_accepted(unit: str) -> None:
    assert read({"ENERGY_UNIT": unit}).unit == unit


@pytest.mark.parametrize("unit", ["Watt", "KW", "kkW", "°C", "k", "W W", "<b>"])
def test_another_unit_is_refused_with_those_that_are_accepted(unit: str) -> None:
    with pytest.raises(ConfigError, match="ENERGY_UNIT: W, VA or var is accepted"):
        read({"ENERGY_UNIT": unit})


SERVICES = ["redis", "ingest", "page", "readings", "process", "energy", "energy-ingest", "energy-port", "energy-keep"]


@pytest.mark.parametrize("scheme", ["tcp", "udp", "sctp"])
@pytest.mark.parametrize("own", [{}, {"REDIS_URL": "redis://elsewhere:6380/1"}, {"REDIS_HOST": "elsewhere"}])
def test_what_kubernetes_sets_for_services_is_no_setting(scheme: str, own: dict[str, str]) -> None:
    environ = dict(own)
    for service in SERVICES:
        name = service.upper().replace("-", "_")
        link = f"{name}_PORT_6379_{scheme.upper()}"
        environ |= {f"{name}_SERVICE_HOST": "10.0.0.1", f"{name}_SERVICE_PORT": "6379", f"{link}_PORT": "6379"}
        environ |= {f"{name}_SERVICE_PORT_HTTP": "6379", f"{link}_PROTO": scheme, f"{link}_ADDR": "10.0.0.1"}
        environ |= dict.fromkeys((f"{name}_PORT", link), f"{scheme}://10.0.0.1:6379")
    assert read(environ) == read(own)
    connect(read(environ))


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_an_empty_variable_is_as_good_as_none(empty: str) -> None:
    names = [field.alias for field in Settings.model_fields.values() if field.alias]
    files = {"REDIS_URL_FILE": empty, "REDIS_PASSWORD_FILE": empty}
    assert read(dict.fromkeys(names, empty) | files) == read({})


def test_a_url_may_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("redis://:open-sesame@[::1]:7000/3\n")
    pool = connect(read({"REDIS_URL_FILE": str(path)})).connection_pool
    where = {name: pool.connection_kwargs[name] for name in ("host", "port", "db", "password")}
    assert where == {"host": "::1", "port": 7000, "db": 3, "password": "open-sesame"}
    with pytest.raises(ConfigError, match="REDIS_URL_FILE contradict"):
        read({"REDIS_URL_FILE": str(path), "REDIS_URL": "redis://localhost"})


@pytest.mark.parametrize("host", ["::1", "redis", "redis-0.redis.svc.cluster.local.", "10.0.0.1", "my_redis"])
def test_a_host_is_taken_as_it_is(host: str) -> None:
    assert connect(read({"REDIS_HOST": host})).connection_pool.connection_kwargs["host"] == host


@pytest.mark.parametrize("url", ["redis://", "redis://h", "redis://u:p%40@h:1/2/", "rediss://h/0", "redis:///5"])
def test_a_url_of_redis_is_taken(url: str) -> None:
    assert connect(read({"REDIS_URL": url}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENERGY_PORT_PAGE", "http"),
        ("ENERGY_PORT_INGEST", "0"),
        ("ENERGY_KEEP_DAYS", "-1"),
        ("ENERGY_READINGS_URL", "localhost:8001"),
        ("ENERGY_PORT_INGEST", "tcp://10.0.0.1:8000"),
        ("ENERGY_KEEP_DAYS", "nan"),
        ("ENERGY_KEEP_DAYS", "inf"),
        ("ENERGY_KEEP_READINGS", "1.5"),
        ("ENERGY_HOST", "a..b"),
        ("ENERGY_HOST", "0.0.0.0:8000"),
        ("ENERGY_INGEST_URL", "http://a b"),
        ("ENERGY_INGEST_URL", "http://host:port"),
        ("ENERGY_INGEST_URL", "http://host:99999"),
        ("ENERGY_READINGS_URL", "http://host?x="),
        ("ENERGY_READINGS_URL", "http://:8001"),
        ("REDIS_PORT", "http://10.0.0.1:6379"),
        ("REDIS_PORT", "0"),
        ("REDIS_DB", "9" * 30),
        ("REDIS_HOST", "tcp://10.0.0.1:6379"),
        ("REDIS_HOST", "redis:6379"),
        ("REDIS_HOST", "user@host"),
        ("REDIS_HOST", "h" * 64),
        ("REDIS_PASSWORD", "\udcff"),
        ("REDIS_PASSWORD_FILE", "/proc/self/mem"),
        ("REDIS_PASSWORD_FILE", "/"),
        ("REDIS_URL_FILE", "/no/such/file"),
        ("REDIS_URL", "redis://localhost?bogus=1"),
        ("REDIS_URL", "redis://localhost/zero"),
        ("REDIS_URL", "redis://localhost:port"),
        ("REDIS_URL", "redis://[::1"),
        ("REDIS_URL", "redis+sentinel://localhost/mymaster"),
        ("REDIS_URL", "unix:///run/redis.sock"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_PASSWORD_FILE", "/no/such/file"),
        ("REDIS_URL", "http://localhost"),
        ("GREENSCALE_REDIS_CA_FILE", "/etc/ca.pem"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        connect(read({name: value}))
    assert str(raised.value).startswith((name, "GREENSCALE_REDIS_"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["CA", "CERT", "KEY"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\n\xff\n"])
def test_files_of_tls_are_read_at_the_start(tmp_path: Path, kind: str, content: bytes | None) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        connect(read({"REDIS_URL": "rediss://localhost", f"GREENSCALE_REDIS_{kind}_FILE": str(path)}))
    assert str(raised.value).startswith("GREENSCALE_REDIS_")
    assert "\n" not in str(raised.value)
