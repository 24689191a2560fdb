"""The settings. Those of Redis have GreenScale's names, so that one environment serves the worker and the APIs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from greenscale_worker import ConfigError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/]+")]


class Settings(BaseModel):
    """What the roles are told by the environment."""

    model_config = ConfigDict(frozen=True)

    redis_url: SecretStr | None = Field(None, alias="REDIS_URL")
    redis_host: Text = Field("127.0.0.1", alias="REDIS_HOST")
    redis_port: Port = Field(6379, alias="REDIS_PORT")
    redis_db: int = Field(0, alias="REDIS_DB", ge=0)
    redis_username: Text | None = Field(None, alias="REDIS_USERNAME")
    redis_password: SecretStr | None = Field(None, alias="REDIS_PASSWORD")
    redis_ca_file: Path | None = Field(None, alias="GREENSCALE_REDIS_CA_FILE")
    redis_cert_file: Path | None = Field(None, alias="GREENSCALE_REDIS_CERT_FILE")
    redis_key_file: Path | None = Field(None, alias="GREENSCALE_REDIS_KEY_FILE")
    stream: Text = Field("energy_readings", alias="REDIS_STREAM_NAME")
    host: Text = Field("127.0.0.1", alias="ENERGY_HOST")
    ingest_port: Port = Field(8000, alias="ENERGY_PORT_INGEST")
    readings_port: Port = Field(8001, alias="ENERGY_PORT_READINGS")
    page_port: Port = Field(3000, alias="ENERGY_PORT_PAGE")
    ingest_url: Url | None = Field(None, alias="ENERGY_INGEST_URL")
    readings_url: Url | None = Field(None, alias="ENERGY_READINGS_URL")
    keep_readings: int = Field(100_000, alias="ENERGY_KEEP_READINGS", ge=0)
    keep_days: float = Field(0, alias="ENERGY_KEEP_DAYS", ge=0, le=36_500)

    @property
    def ingest(self) -> str:
        """The root URL of the ingestion API."""
        return (self.ingest_url or f"http://127.0.0.1:{self.ingest_port}").rstrip("/")

    @property
    def readings(self) -> str:
        """The root URL of the readings API."""
        return (self.readings_url or f"http://127.0.0.1:{self.readings_port}").rstrip("/")


def read(environ: Mapping[str, str]) -> Settings:
    """Read and check all settings; an empty value is as good as none.

    Raises ConfigError with one line that names the variable, and what is accepted.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    if path := given.get("REDIS_PASSWORD_FILE"):
        try:
            given["REDIS_PASSWORD"] = Path(path).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"REDIS_PASSWORD_FILE: {path}: {error}; a file with the password is accepted") from None
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{fault['loc'][0]}: {fault['msg']}") from None
