"""The settings: those of Redis are GreenScale's own, under the same names; the others begin with ENERGY_."""

from collections.abc import Mapping
from typing import Annotated

from greenscale_worker.config import load, redis_options
from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import RedisOptions
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Settings(BaseModel):
    """What the roles are told by the environment. `redis` says where Redis is, and how to be let in."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    redis: RedisOptions
    stream: Text = Field("energy_readings", alias="REDIS_STREAM_NAME")
    host: Text = Field("127.0.0.1", alias="ENERGY_HOST")
    ingest_port: Port = Field(8000, alias="ENERGY_PORT_INGEST")
    readings_port: Port = Field(8001, alias="ENERGY_PORT_READINGS")
    page_port: Port = Field(3000, alias="ENERGY_PORT_PAGE")
    ingest_url: Text | None = Field(None, alias="ENERGY_INGEST_URL")
    readings_url: Text | None = Field(None, alias="ENERGY_READINGS_URL")
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

    Raises ConfigError with one line that names the variable, what is wrong and what is accepted.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    try:
        return Settings.model_validate({**given, "redis": redis_options(load(environ))})
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{fault['loc'][0]}: {fault['msg']}") from None
