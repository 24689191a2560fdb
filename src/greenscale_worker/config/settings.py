"""Every setting, declared once: its name in the environment, type, bounds, default and purpose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr

from greenscale_worker.config.rules import (
    ADDRESS,
    API_KEY,
    BASE_URL,
    FILES,
    FLEET_LIMIT,
    GATEWAY_KEY,
    GROUP_NAME,
    HEADERS,
    HOSTNAME,
    HTTP_PATH,
    HTTP_URL,
    HTTP_URLS,
    LIST_NAME,
    OR_NOTHING,
    PEM_FILE,
    POD_NAME,
    PROXY,
    REDIS_URL,
    RESULT_PREFIX,
    SecretUrl,
)

NEYSA_URL: Final = "https://boomai-llama.neysa.io/v1/chat/completions"
NEYSA_MODEL: Final = "meta-llama/Llama-3.3-70B-Instruct"
OPENAI_BASE: Final = "https://api.openai.com/v1"


class Section(BaseModel):
    """Settings that belong together; the docstring is their heading."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, defer_build=True)


class EndpointSettings(Section):
    """Endpoint, for the backend chat."""

    neysa_api_url: Annotated[str | None, HTTP_URL] = Field(
        None,
        alias="NEYSA_API_URL",
        description=f"Full URL of the endpoint. If only `NEYSA_API_KEY` is set: `{NEYSA_URL}`.",
    )
    neysa_api_key: Annotated[SecretStr | None, API_KEY] = Field(
        None, alias="NEYSA_API_KEY", description="Key for that endpoint. Set it empty for an endpoint that needs none."
    )
    openai_base_url: Annotated[str | None, BASE_URL] = Field(
        None,
        alias="OPENAI_BASE_URL",
        description=f"Base URL, instead of `NEYSA_API_URL`. If only `OPENAI_API_KEY` is set: `{OPENAI_BASE}`.",
    )
    openai_api_key: Annotated[SecretStr | None, API_KEY] = Field(
        None, alias="OPENAI_API_KEY", description="Key for that endpoint. Set it empty for an endpoint that needs none."
    )
    model: str | None = Field(
        None,
        alias="GREENSCALE_MODEL",
        description=f"Model for jobs that name none. With `NEYSA_API_KEY`: `{NEYSA_MODEL}`; otherwise required.",
    )
    temperature: Annotated[float | None, OR_NOTHING] = Field(
        0.7,
        alias="GREENSCALE_TEMPERATURE",
        ge=0,
        le=2,
        description="Temperature for jobs that name none. Empty: not sent.",
    )
    max_tokens: Annotated[int | None, OR_NOTHING] = Field(
        1024,
        alias="GREENSCALE_MAX_TOKENS",
        ge=1,
        le=1_000_000,
        description="Limit on the tokens of an answer, for jobs that name none. Empty: not sent.",
    )
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        alias="GREENSCALE_MAX_TOKENS_PARAMETER",
        description="Parameter that carries this limit. OpenAI's reasoning models accept only `max_completion_tokens`.",
    )
    endpoint_headers: Annotated[SecretStr | None, HEADERS] = Field(
        None,
        alias="GREENSCALE_ENDPOINT_HEADERS",
        description="Additional request headers. They replace the worker's own headers of the same name.",
    )
    endpoint_ca_file: Annotated[str | None, PEM_FILE] = Field(
        None,
        alias="GREENSCALE_ENDPOINT_CA_FILE",
        description="CA certificates (PEM) to trust instead of the system's.",
    )
    endpoint_cert_file: Annotated[str | None, PEM_FILE] = Field(
        None,
        alias="GREENSCALE_ENDPOINT_CERT_FILE",
        description="Client certificate (PEM), if the endpoint requires one.",
    )
    endpoint_key_file: Annotated[str | None, PEM_FILE] = Field(
        None,
        alias="GREENSCALE_ENDPOINT_KEY_FILE",
        description="Private key (PEM, not encrypted) of the client certificate, if it is in another file.",
    )
    ready_path: Annotated[str | None, HTTP_PATH] = Field(
        None,
        alias="GREENSCALE_READY_PATH",
        description="Path on the endpoint's host to GET before the first job is claimed, until its status is below "
        "500. Without it: until a TCP connection succeeds.",
    )
    https_proxy: Annotated[SecretUrl | None, PROXY] = Field(
        None,
        validation_alias=AliasChoices("HTTPS_PROXY", "https_proxy"),
        description="Proxy for an endpoint whose URL begins with `https`.",
    )
    no_proxy: str | None = Field(
        None,
        validation_alias=AliasChoices("NO_PROXY", "no_proxy"),
        description="Hosts to reach without the proxy: names or suffixes, separated by commas; `*`: all.",
    )


class RedisSettings(Section):
    """Redis."""

    redis_url: Annotated[SecretUrl | None, REDIS_URL] = Field(
        None,
        alias="REDIS_URL",
        description="URL of Redis, instead of `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`.",
    )
    redis_host: Annotated[str, HOSTNAME] = Field("127.0.0.1", alias="REDIS_HOST", description="Host of Redis.")
    redis_port: int = Field(6379, alias="REDIS_PORT", ge=1, le=65535, description="Port of Redis.")
    redis_db: int = Field(0, alias="REDIS_DB", ge=0, le=1_000_000, description="Number of the database.")
    redis_username: str | None = Field(None, alias="REDIS_USERNAME", description="User name, if Redis uses ACLs.")
    redis_password: SecretStr | None = Field(
        None,
        alias="REDIS_PASSWORD",
        description="Password; also for a `REDIS_URL` without one. A `_FILE` is read again for each connection, "
        "so a new password needs no restart.",
    )
    redis_sentinel_username: str | None = Field(
        None, alias="REDIS_SENTINEL_USERNAME", description="User name for the Sentinels, if they use ACLs."
    )
    redis_sentinel_password: SecretStr | None = Field(
        None,
        alias="REDIS_SENTINEL_PASSWORD",
        description="Password for the Sentinels. Without it, Sentinels that ask for one get the password of Redis.",
    )
    redis_ca_file: Annotated[str | None, PEM_FILE] = Field(
        None, alias="GREENSCALE_REDIS_CA_FILE", description="CA certificates (PEM) to trust instead of the system's."
    )
    redis_cert_file: Annotated[str | None, PEM_FILE] = Field(
        None, alias="GREENSCALE_REDIS_CERT_FILE", description="Client certificate (PEM), if Redis requires one."
    )
    redis_key_file: Annotated[str | None, PEM_FILE] = Field(
        None,
        alias="GREENSCALE_REDIS_KEY_FILE",
        description="Private key (PEM) of the client certificate, if it is in another file.",
    )


class QueueSettings(Section):
    """Queue."""

    queue: str = Field(
        "list",
        alias="GREENSCALE_QUEUE",
        description="Kind of queue: `list`, `stream`, or an entry point of the group `greenscale.queues`.",
    )
    list_name: Annotated[str, LIST_NAME] = Field(
        "jobs", alias="REDIS_LIST_NAME", description="Name of the Redis list or stream that producers write to."
    )
    stream_name: Annotated[str | None, LIST_NAME] = Field(
        None,
        alias="REDIS_STREAM_NAME",
        description="Name of the stream; may be set instead of `REDIS_LIST_NAME`.",
    )
    take_from: Literal["right", "left"] = Field(
        "right",
        alias="GREENSCALE_TAKE_FROM",
        description="End of the list that holds the oldest job: `right` if producers `LPUSH`, `left` if they `RPUSH`.",
    )
    stream_group: Annotated[str, GROUP_NAME] = Field(
        "greenscale", alias="GREENSCALE_STREAM_GROUP", description="Consumer group of the stream."
    )
    lease_seconds: float = Field(
        15.0,
        alias="GREENSCALE_LEASE_SECONDS",
        ge=1,
        le=3600,
        description="If a worker sends no heartbeat for this long, others take over its jobs. A heartbeat is sent "
        "every fifth of it. Must be the same for all workers of a queue.",
    )
    result_ttl_seconds: int = Field(
        3600,
        alias="GREENSCALE_RESULT_TTL_SECONDS",
        ge=0,
        le=31_536_000,
        description="How long results and the records of ended jobs are kept. 0: none are written.",
    )
    result_prefix: Annotated[str, RESULT_PREFIX] = Field(
        "",
        alias="GREENSCALE_RESULT_PREFIX",
        description="Prefix of the keys `result:<id>`, `job:<id>` and `body:<id>`, such as `search:`. Needed if two "
        "queues in one database may use the same job ids. Must be the same for all workers and commands of a queue.",
    )
    dead_max_age_seconds: float | None = Field(
        None,
        alias="GREENSCALE_DEAD_MAX_AGE_SECONDS",
        ge=1,
        le=31_536_000,
        description="Age at which dead letters are deleted. Without it: they stay until they are replayed or purged.",
    )
    dead_max_count: int | None = Field(
        None,
        alias="GREENSCALE_DEAD_MAX_COUNT",
        ge=1,
        le=1_000_000_000,
        description="Number of dead letters to keep; the oldest beyond it are deleted. Without it: no limit.",
    )
    ledger_days: int = Field(
        8,
        alias="GREENSCALE_LEDGER_DAYS",
        ge=0,
        le=92,
        description="How many days the sums by minute are kept that `greenscale-worker report` shows. 0: none are "
        "written. Must be the same for all workers and commands of a queue.",
    )


class FlowSettings(Section):
    """Flow control, for all workers of a queue together."""

    limit: Annotated[str | None, FLEET_LIMIT] = Field(
        None,
        alias="GREENSCALE_LIMIT",
        description="How many calls all workers together may have open (docs/flow-control.md). `engine`: as many as "
        "the engine's own metrics say. Without it: as many as there are lanes.",
    )
    engine_metrics_url: Annotated[SecretUrl | None, HTTP_URLS] = Field(
        None,
        alias="GREENSCALE_ENGINE_METRICS_URL",
        description="Where the engine behind the endpoint tells its own metrics (vLLM, SGLang, llama.cpp), such as "
        "`http://vllm:8000/metrics`; several engines: separated by commas. One worker reads them each second, "
        "and all workers together have as many calls open as the engine has slots, less what others send. A number in "
        "`GREENSCALE_LIMIT` is then the most that they may have open.",
    )
    requests_per_minute: Annotated[float | None, OR_NOTHING] = Field(
        None,
        alias="GREENSCALE_REQUESTS_PER_MINUTE",
        ge=0.1,
        le=100_000_000,
        description="How many calls all workers together may begin in a minute. Without it: no limit.",
    )
    tokens_per_minute: Annotated[float | None, OR_NOTHING] = Field(
        None,
        alias="GREENSCALE_TOKENS_PER_MINUTE",
        ge=1,
        le=1_000_000_000_000,
        description="How many tokens, of prompts and answers, the calls of all workers together may cost in a minute. "
        "Without it: no limit.",
    )


class JobSettings(Section):
    """Jobs."""

    timeout_seconds: float = Field(
        300.0, alias="GREENSCALE_TIMEOUT_SECONDS", ge=0.1, le=86_400, description="Time limit of one call."
    )
    max_tries: int = Field(
        5,
        alias="GREENSCALE_MAX_TRIES",
        ge=1,
        le=1000,
        description="Tries of a job. A failed call uses up one try or a part of it (docs/blame.md).",
    )
    max_crashes: int = Field(
        4,
        alias="GREENSCALE_MAX_CRASHES",
        ge=1,
        le=1000,
        description="Crashed runs after which a job becomes a dead letter.",
    )
    max_age_seconds: float = Field(
        86_400.0,
        alias="GREENSCALE_MAX_AGE_SECONDS",
        ge=1,
        le=31_536_000,
        description="How long after its first claim a job is still tried, whatever the cause of its failures.",
    )
    max_payload_bytes: int = Field(
        1024 * 1024,
        alias="GREENSCALE_MAX_PAYLOAD_BYTES",
        ge=1024,
        le=8 * 1024 * 1024,
        description="Largest job that is accepted.",
    )


class WorkerSettings(Section):
    """Worker."""

    backend: str = Field(
        "chat",
        alias="GREENSCALE_BACKEND",
        description="Runs the jobs: `chat` (the endpoint), `echo`, an entry point of the group `greenscale.backends`, "
        "or `package.module:handler`.",
    )
    concurrency: int = Field(
        16, alias="GREENSCALE_CONCURRENCY", ge=1, le=1000, description="Jobs that one worker runs at the same time."
    )
    drain_seconds: float = Field(
        25.0,
        alias="GREENSCALE_DRAIN_SECONDS",
        ge=0,
        description="How long running jobs may go on after SIGTERM. The rest is handed back within two more seconds.",
    )
    health_port: int | None = Field(
        None,
        alias="GREENSCALE_HEALTH_PORT",
        ge=1,
        le=65535,
        description="Port for `/livez`, `/readyz` and `/metrics`. Without it: no server.",
    )
    health_host: Annotated[str, HOSTNAME] = Field(
        "127.0.0.1", alias="GREENSCALE_HEALTH_HOST", description="Address to serve them on; in a pod: `0.0.0.0`."
    )
    pod_deletion_cost: bool = Field(
        default=False,
        alias="GREENSCALE_POD_DELETION_COST",
        description="Whether the worker keeps the annotation `controller.kubernetes.io/pod-deletion-cost` of its pod "
        "equal to its jobs in flight, so that scale-in takes idle pods first.",
    )
    pod_name: Annotated[str | None, POD_NAME] = Field(
        None, alias="GREENSCALE_POD_NAME", description="Name of that pod: `metadata.name`, from the downward API."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        alias="GREENSCALE_LOG_FORMAT",
        description="`json`: lines of JSON to stdout. `console`: lines for people to stderr. `auto`: `console` if "
        "stderr is a terminal, else `json`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="GREENSCALE_LOG_LEVEL", description="Lowest level that is logged."
    )
    log_exceptions: Literal["auto", "true", "false"] = Field(
        "auto",
        alias="GREENSCALE_LOG_EXCEPTIONS",
        description="Whether tracebacks of exceptions from handlers are logged. Their messages may quote a job, so "
        "`auto` logs them only if stderr is a terminal.",
    )
    log_content: bool = Field(
        default=False,
        alias="GREENSCALE_LOG_CONTENT",
        description="Whether prompts and answers are logged. Everyone who can read the log can then read them.",
    )


class GatewaySettings(Section):
    """Gateway."""

    gateway_host: Annotated[str, HOSTNAME] = Field(
        "127.0.0.1",
        alias="GREENSCALE_GATEWAY_HOST",
        description="Address on which `serve` listens. Without keys, only this machine's own is accepted.",
    )
    gateway_port: int = Field(
        8400, alias="GREENSCALE_GATEWAY_PORT", ge=1, le=65535, description="Port on which `serve` listens."
    )
    gateway_key: Annotated[SecretStr | None, GATEWAY_KEY] = Field(
        None,
        alias="GREENSCALE_GATEWAY_KEY",
        description="A key for the operator, beside those of `greenscale-worker keys`: it may do all, on all jobs.",
    )
    files_url: Annotated[str | None, FILES] = Field(
        None,
        alias="GREENSCALE_FILES",
        description="Where `serve` keeps files and batches: a directory, or `s3://bucket/prefix` by the variables "
        "`AWS_*`. Without it, they are refused. Must be the same for all gateways of a queue.",
    )
    webhooks_allow_private: bool = Field(
        default=False,
        alias="GREENSCALE_WEBHOOKS_ALLOW_PRIVATE",
        description="Whether webhooks may go to private addresses and this machine, and by `http`. Whoever may make "
        "endpoints can then have the gateway call what only its network reaches.",
    )


class ScalerSettings(Section):
    """Scaler."""

    scaler_listen: Annotated[str, ADDRESS] = Field(
        "0.0.0.0:6000",
        alias="GREENSCALE_SCALER_LISTEN",
        description="Address and port on which `scaler` listens for KEDA.",
    )
    scaler_cert_file: Annotated[str | None, PEM_FILE] = Field(
        None,
        alias="GREENSCALE_SCALER_CERT_FILE",
        description="Certificate (PEM) of `scaler`. Without it: no TLS. It is read again when it is renewed.",
    )
    scaler_key_file: Annotated[str | None, PEM_FILE] = Field(
        None, alias="GREENSCALE_SCALER_KEY_FILE", description="Private key (PEM) of that certificate."
    )
    scaler_ca_file: Annotated[str | None, PEM_FILE] = Field(
        None,
        alias="GREENSCALE_SCALER_CA_FILE",
        description="CA certificates (PEM). With it, KEDA must show a certificate of theirs.",
    )


SECTIONS: Final[tuple[type[Section], ...]] = (
    EndpointSettings,
    RedisSettings,
    QueueSettings,
    FlowSettings,
    JobSettings,
    WorkerSettings,
    GatewaySettings,
    ScalerSettings,
)


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning about a variable that is not taken for a setting, and why. It does not stop the start."""

    name: str
    hint: str


class Settings(
    ScalerSettings,
    GatewaySettings,
    WorkerSettings,
    JobSettings,
    FlowSettings,
    QueueSettings,
    RedisSettings,
    EndpointSettings,
):
    """All settings, each checked by itself; `options` checks them together.

    By field, `origins` has the source of each value that is not the default, and `files` the file that holds a secret.
    `unnamed` are the fields from a `.env` that no `--env-file` named. `notices` are warnings.
    """

    origins: Mapping[str, str] = {}
    files: Mapping[str, str] = {}
    unnamed: frozenset[str] = frozenset()
    notices: tuple[Notice, ...] = ()
