"""Settings: GreenScale's names for Redis, and one line for what is wrong."""

from pathlib import Path

import pytest
from greenscale_worker import ConfigError

from energy_readings.connection import connect
from energy_readings.settings import read


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENERGY_PORT_PAGE", "http"),
        ("ENERGY_PORT_INGEST", "0"),
        ("ENERGY_KEEP_DAYS", "-1"),
        ("ENERGY_READINGS_URL", "localhost:8001"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
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
