"""The interface of a backend, and the registry of names.

Error codes are one word for machines; `http_<status>` means that the endpoint answered with that status.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from greenscale_worker.errors import ConfigError
from greenscale_worker.job import Job, Output


class Backend(Protocol):
    """Answers jobs: an endpoint, a model of your own, a function.

    Two more attributes are optional. `peers(job) -> str` names what answers this job: how other jobs of the same name
    fare is evidence about it; by default, jobs for the same model are peers. `why_not_ready: str` is what `ready` found
    wrong, in one line that may be logged.
    """

    async def infer(self, job: Job) -> Output:
        """Answer. May be cancelled at any time.

        Raises TransientError or PermanentError; any other exception counts as `backend_error`.
        """
        ...

    async def ready(self) -> bool:
        """Return whether a job sent now would be answered. Raises nothing."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Address and credentials of an OpenAI-compatible endpoint, and defaults for what a job leaves out.

    `url` is the full one, `…/chat/completions`. `key` None or empty: an endpoint without keys. `model`, `temperature`
    and `max_tokens` are sent where a job does not set them; None: not sent, and jobs have to name their model.
    `max_tokens` is sent by the name `max_tokens_parameter`: reasoning models take `max_completion_tokens` only. PEM
    files: `ca_file` replaces the system's authorities, `cert_file` is our certificate for an endpoint that asks for
    one, `key_file` its key where the same file does not hold it. `headers` are sent beside ours and override them.
    `proxy` is a URL, with user and password if it needs them. `ready_path` is a path on the endpoint's host whose
    status below 500 means ready; None: a TCP connection does. `connect_timeout` is seconds, for name, TCP and TLS.
    `concurrency` bounds the calls at a time below the number of lanes; None: only the lanes bound them.
    """

    url: str
    model: str | None
    key: str | None = field(default=None, repr=False)
    temperature: float | None = 0.7
    max_tokens: int | None = 1024
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    connect_timeout: float = 5.0
    concurrency: int | None = None
    max_response_bytes: int = 8 * 1024 * 1024
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = field(default=None, repr=False)
    ready_path: str | None = None


def _chat(options: ChatOptions | None) -> Backend:
    if options is None:
        raise ConfigError("backend chat: its options are missing; ChatOptions with url and model are expected")
    from greenscale_worker.backends.chat import ChatBackend  # noqa: PLC0415  aiohttp costs 100 ms of a start

    return ChatBackend(options)


def _echo(_options: ChatOptions | None) -> Backend:
    from greenscale_worker.backends.echo import EchoBackend  # noqa: PLC0415  as above: only what is used

    return EchoBackend()


BUILT_IN: Final[dict[str, Callable[[ChatOptions | None], Backend]]] = {"chat": _chat, "echo": _echo}


def open_backend(name: str, options: ChatOptions | None = None) -> Backend:
    """Open a backend: `chat`, `echo`, an entry point of group `greenscale.backends`, or `package.module:handler`.

    Only `chat` takes options, and it needs them. Makes no connection yet. Raises ConfigError if there is no such
    backend, or its options are wrong.
    """
    if name in BUILT_IN:
        return BUILT_IN[name](options)
    from greenscale_worker.backends.handlers import load  # noqa: PLC0415  reads the metadata of packages

    return load(name, built_in=BUILT_IN)
