"""Turns settings into the options of the layers below, and finds contradictions between settings.

Each function reads only what it needs, so a command that sends nothing to an endpoint needs no key.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr

from greenscale_worker.backends import ChatOptions
from greenscale_worker.config.catalogue import name_of
from greenscale_worker.config.rules import CHAT_PATH, PROXY, is_http_url
from greenscale_worker.config.settings import NEYSA_MODEL, NEYSA_URL, OPENAI_BASE, Settings
from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import QueueOptions, RedisOptions

if TYPE_CHECKING:
    from greenscale_worker.execution import Policy


DAY_SECONDS: Final = 86_400  # for which all gateways may be away without an end that is not told
NEYSA_PAIR: Final = ("neysa_api_key", "neysa_api_url")
OPENAI_PAIR: Final = ("openai_api_key", "openai_base_url")


def chat_options(settings: Settings, *, model_optional: bool = False) -> ChatOptions:
    """Return the endpoint's address, credentials and defaults. Raises ConfigError if key, URL and model do not match.

    `model_optional`: no model need be set, as each job may name one; a job that does not then fails alone. That is for
    jobs with a user who sees the answers: a worker without a model would make dead letters of a whole queue.
    """
    url, key, model = _endpoint(settings)
    if model is None and not model_optional:
        raise ConfigError("GREENSCALE_MODEL is not set; expected with OPENAI_API_KEY: the name of a model")
    headers = settings.endpoint_headers
    for name in ("endpoint_cert_file", "endpoint_key_file"):
        if getattr(settings, name) is not None and not url.startswith("https:"):
            raise ConfigError(f"{name_of(name)} is set without TLS; expected beside it: an endpoint by https://")
    if settings.endpoint_key_file is not None and settings.endpoint_cert_file is None:
        raise ConfigError(
            "GREENSCALE_ENDPOINT_KEY_FILE is set without GREENSCALE_ENDPOINT_CERT_FILE; both are expected"
        )
    own = NEYSA_PAIR if settings.neysa_api_key is not None else OPENAI_PAIR
    _from_one_source(settings, (own[0], "endpoint_headers"), own[1:], "endpoint_ca_file")
    return ChatOptions(
        url=url,
        key=key.get_secret_value() or None,
        model=model,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        max_tokens_parameter=settings.max_tokens_parameter,
        ca_file=settings.endpoint_ca_file,
        cert_file=settings.endpoint_cert_file,
        key_file=settings.endpoint_key_file,
        headers=orjson.loads(headers.get_secret_value()) if headers else {},
        proxy=_proxy(settings, url),
        ready_path=settings.ready_path,
    )


def has_endpoint(settings: Settings) -> bool:
    """Return whether any setting names an endpoint. If none does, `up` runs a simulated one."""
    return any(getattr(settings, field) is not None for field in (*NEYSA_PAIR, *OPENAI_PAIR))


def redis_options(settings: Settings) -> RedisOptions:
    """Return the address and credentials of Redis. Raises ConfigError for settings that contradict each other."""
    url = _redis_url(settings)
    files = {name: getattr(settings, f"redis_{name}") for name in ("ca_file", "cert_file", "key_file")}
    for name, file in files.items():
        if file is not None and not url.startswith("rediss"):
            raise ConfigError(
                f"{name_of(f'redis_{name}')} is set without TLS; expected beside it: REDIS_URL=rediss://…"
            )
    if settings.redis_key_file is not None and settings.redis_cert_file is None:
        raise ConfigError("GREENSCALE_REDIS_KEY_FILE is set without GREENSCALE_REDIS_CERT_FILE; both are expected")
    sentinel = "+sentinel" in url.partition("://")[0]
    for name in ("redis_sentinel_username", "redis_sentinel_password"):
        if getattr(settings, name) is not None and not sentinel:
            raise ConfigError(f"{name_of(name)} is set without Sentinels; expected: REDIS_URL=redis+sentinel://…")
    if settings.redis_sentinel_username is not None and settings.redis_sentinel_password is None:
        raise ConfigError("REDIS_SENTINEL_USERNAME is set without REDIS_SENTINEL_PASSWORD; both are expected")
    _from_one_source(
        settings,
        ("redis_password", "redis_sentinel_password"),
        ("redis_url", "redis_host", "redis_port"),
        "redis_ca_file",
    )
    return RedisOptions(
        url=url,
        username=settings.redis_username,
        password=_revealed(settings.redis_password),
        password_file=settings.files.get("redis_password"),
        url_file=settings.files.get("redis_url"),
        sentinel_username=settings.redis_sentinel_username,
        sentinel_password=_revealed(settings.redis_sentinel_password),
        sentinel_password_file=settings.files.get("redis_sentinel_password"),
        **files,
    )


def queue_options(settings: Settings) -> QueueOptions:
    """Return the options of the queue. Raises ConfigError if it has two names."""
    return QueueOptions(
        name=queue_name(settings),
        take_from=settings.take_from,
        group=settings.stream_group,
        lease=settings.lease_seconds,
        max_crashes=settings.max_crashes,
        result_ttl=settings.result_ttl_seconds,
        result_prefix=settings.result_prefix,
        dead_max_age=settings.dead_max_age_seconds or 0.0,
        dead_max_count=settings.dead_max_count or 0,
        notices_max_age=max(DAY_SECONDS, settings.result_ttl_seconds),
        ledger_days=settings.ledger_days,
        limit="engine" if settings.engine_metrics_url else _limit(settings.limit),
        limit_most=most_in_flight(settings) if settings.engine_metrics_url else None,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        backend=settings.backend,
    )


def _limit(text: str | None) -> int | Literal["engine"] | None:
    """Return how many calls the fleet may have open."""
    return "engine" if text == "engine" else int(text) if text else None


def engine_pages(settings: Settings) -> list[str]:
    """Return the URLs of the metrics of the engines that are looked at. Raises ConfigError where one is needed."""
    text = settings.engine_metrics_url.get_secret_value() if settings.engine_metrics_url else ""
    if settings.limit == "engine" and not text:
        raise ConfigError(
            "GREENSCALE_LIMIT=engine: GREENSCALE_ENGINE_METRICS_URL is missing; expected: where the engine tells its"
            " metrics, such as http://vllm:8000/metrics"
        )
    return [url.strip() for url in text.split(",") if url.strip()]


def most_in_flight(settings: Settings) -> int | None:
    """Return how many calls the fleet may have open at most, whatever the engine says; None: no bound."""
    limit = _limit(settings.limit)
    return None if limit == "engine" else limit


def queue_name(settings: Settings) -> str:
    """Return the name of the list, or of the stream. Raises ConfigError if both are set and differ."""
    if settings.stream_name is None:
        return settings.list_name
    if "list_name" in settings.model_fields_set and settings.list_name != settings.stream_name:
        raise ConfigError("REDIS_LIST_NAME and REDIS_STREAM_NAME contradict each other; expected: one of the two")
    return settings.stream_name


def own_queue_options(settings: Settings, part: str) -> QueueOptions:
    """Return the options of a list of the gateways' own, such as `{jobs}:webhooks`, in the slot of the queue."""
    name = queue_name(settings)
    own = f"{name}:{part}" if "{" in name else f"{{{name}}}:{part}"
    options = replace(queue_options(settings), name=own, take_from="right", result_prefix=f"{part}:", backend=part)
    return replace(options, limit=None, requests_per_minute=None, tokens_per_minute=None)  # none of its calls is one


def own_pod(settings: Settings) -> str | None:
    """Return the name of the pod whose deletion cost is kept up to date, None if none. Raises ConfigError."""
    if not settings.pod_deletion_cost:
        return None
    if settings.pod_name is None:  # the host name may differ from the pod's: long names are cut
        raise ConfigError("GREENSCALE_POD_NAME is not set; expected with GREENSCALE_POD_DELETION_COST: the pod's name")
    return settings.pod_name


def policy(settings: Settings) -> "Policy":
    """Return how often and how long a job is tried."""
    from greenscale_worker.execution import Policy  # noqa: PLC0415  its imports are slow, and only needed to run jobs

    return Policy(
        max_tries=settings.max_tries,
        max_crashes=settings.max_crashes,
        timeout=settings.timeout_seconds,
        max_age=settings.max_age_seconds,
    )


def _endpoint(settings: Settings) -> tuple[str, SecretStr, str | None]:
    """Return URL, key and model. A key goes to the URL of its own pair or to that pair's default, nowhere else."""
    if settings.neysa_api_key is not None:
        return settings.neysa_api_url or NEYSA_URL, settings.neysa_api_key, settings.model or NEYSA_MODEL
    base, key = settings.openai_base_url, settings.openai_api_key
    accepted = "expected: the key of that endpoint, or {0}= (set, but empty) where it needs none"
    if settings.neysa_api_url is not None:
        raise ConfigError(f"NEYSA_API_URL is set without NEYSA_API_KEY; {accepted.format('NEYSA_API_KEY')}")
    if key is None and base is not None:
        raise ConfigError(f"OPENAI_BASE_URL is set without OPENAI_API_KEY; {accepted.format('OPENAI_API_KEY')}")
    if key is None:
        raise ConfigError(
            "no endpoint is set; expected: NEYSA_API_KEY, with NEYSA_API_URL where it is not the default one; or"
            " OPENAI_API_KEY and GREENSCALE_MODEL; to try it, `greenscale-worker simulate` is one, for"
            " NEYSA_API_URL=http://127.0.0.1:8000/v1/chat/completions NEYSA_API_KEY="
        )
    if base is None and not key.get_secret_value():
        raise ConfigError("OPENAI_API_KEY is empty; expected: a key, or an OPENAI_BASE_URL that needs none")
    return (base or OPENAI_BASE).rstrip("/") + CHAT_PATH, key, settings.model


def _from_one_source(settings: Settings, secrets: Iterable[str], address: Iterable[str], authority: str) -> None:
    """Refuse to send a secret to an address from another source, unless it is the default address.

    There are two sources: what the user chose (the environment, a file named by the user), and a `.env` that merely
    lies there. The latter may not set the authority that verifies the host of a chosen secret. Raises ConfigError.
    """
    for secret in secrets:
        value = getattr(settings, secret)
        if value is None or not value.get_secret_value():
            continue
        ours = secret in settings.unnamed
        wrong = [part for part in address if part in settings.origins and (part in settings.unnamed) != ours]
        wrong += [authority] * (authority in settings.unnamed and not ours)
        if wrong:
            raise ConfigError(
                f"{name_of(secret)} is from {settings.origins[secret]} and {name_of(wrong[0])} from"
                f" {settings.origins[wrong[0]]}; a secret is sent only where its own source says; expected: both from"
                " one source, or the file named by greenscale-worker --env-file FILE"
            )


def _proxy(settings: Settings, url: str) -> str | None:
    """Return the proxy for a URL, by the rules of urllib."""
    target = urlsplit(url)
    if settings.https_proxy is None or target.scheme != "https":
        return None
    from urllib import request  # noqa: PLC0415  20 ms, only needed with a proxy

    host, without = target.netloc.rpartition("@")[2], {"no": settings.no_proxy or ""}
    if request.proxy_bypass_environment(host, without):  # type: ignore[attr-defined]  # typeshed leaves it out
        return None
    proxy = settings.https_proxy.get_secret_value()
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not is_http_url(proxy):
        raise ConfigError(f"HTTPS_PROXY: the value is not accepted; expected: {PROXY.accepts}")
    return proxy


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _redis_url(settings: Settings) -> str:
    given = settings.model_fields_set
    if settings.redis_url is None:
        host = f"[{settings.redis_host}]" if ":" in settings.redis_host else settings.redis_host
        return f"redis://{host}:{settings.redis_port}/{settings.redis_db}"
    for name in ("redis_host", "redis_port", "redis_db"):
        if name in given:
            raise ConfigError(f"REDIS_URL and {name_of(name)} contradict each other; expected: one of the two")
    url = urlsplit(settings.redis_url.get_secret_value())
    for name, own in (("redis_username", url.username), ("redis_password", url.password)):
        if own and name in given:
            raise ConfigError(
                f"REDIS_URL, with one of its own, and {name_of(name)} contradict each other; expected: one"
            )
    return url.geturl()
