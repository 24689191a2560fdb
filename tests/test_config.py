"""Settings: what is accepted, where it may come from, what contradicts what, and what it amounts to."""

import itertools
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.cli.config import markdown
from greenscale_worker.config import Settings, chat_options, load, policy, queue_options, redis_options
from greenscale_worker.config.catalogue import Setting, catalogue
from greenscale_worker.config.settings import NEYSA_MODEL, NEYSA_URL
from greenscale_worker.errors import ConfigError
from greenscale_worker.execution import Policy
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis.connections import open_redis
from greenscale_worker.queues.redis.keys import Keys
from harness.redis_server import CERTIFICATE

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
SECRETS = [setting.name for setting in catalogue() if setting.secret]
KEY = "key-0123456789"
PEM = str(CERTIFICATE)


def refused(environ: Mapping[str, str], dotenv: Path | None = None) -> str:
    """Load what must not be loaded; gives the one line that says why."""
    with pytest.raises(ConfigError) as caught:
        load(environ, dotenv)
    return one_line(caught.value)


def one_line(error: ConfigError) -> str:
    line = str(error)
    assert line.isprintable(), line
    assert "expected" in line
    return line


def setting_of(name: str) -> Setting:
    return next(setting for setting in catalogue() if setting.name == name)


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    return tmp_path / ".env"


# --- the settings ---


def test_without_anything_the_public_defaults_hold() -> None:
    settings = load({})
    assert (settings.concurrency, settings.drain_seconds, settings.lease_seconds) == (16, 25.0, 15.0)
    assert (settings.health_port, settings.health_host) == (None, "127.0.0.1")
    assert (settings.queue, settings.backend, settings.list_name) == ("list", "chat", "jobs")
    assert (settings.temperature, settings.max_tokens, settings.result_ttl_seconds) == (0.7, 1024, 3600)
    assert settings.origins == {}
    assert settings.notices == ()


def test_the_defaults_are_those_of_the_rooms_below() -> None:
    settings = load({"NEYSA_API_KEY": ""})
    assert redis_options(settings) == RedisOptions()
    assert queue_options(settings) == QueueOptions(backend="chat")
    assert policy(settings) == Policy(max_crashes=QueueOptions().max_crashes)
    assert chat_options(settings) == ChatOptions(url=NEYSA_URL, model=NEYSA_MODEL)


def test_the_public_names_are_there() -> None:
    ours = ("CONCURRENCY", "DRAIN_SECONDS", "LEASE_SECONDS", "HEALTH_PORT", "HEALTH_HOST", "QUEUE", "BACKEND")
    redis = ("URL", "HOST", "PORT", "DB", "USERNAME", "PASSWORD", "LIST_NAME")
    frozen = {*(f"GREENSCALE_{name}" for name in ours), *(f"REDIS_{name}" for name in redis), *ENDPOINT, "HTTPS_PROXY"}
    assert frozen <= {setting.name for setting in catalogue()}


def test_every_setting_is_declared_once_with_what_it_is_for() -> None:
    names = [name for setting in catalogue() for name in setting.names]
    assert len(names) == len(set(names))
    assert len({setting.field for setting in catalogue()}) == len(catalogue())
    assert {setting.field for setting in catalogue()} | {"origins", "files", "unnamed", "notices"} == set(
        Settings.model_fields
    )
    for setting in catalogue():
        assert setting.info.description
        assert setting.section


NUMBERS = {
    "GREENSCALE_CONCURRENCY": ("1", "1000", "0", "1001", "1.5"),
    "GREENSCALE_DRAIN_SECONDS": ("0", "86400.5", "-0.1", "inf", "nan"),
    "GREENSCALE_LEASE_SECONDS": ("1", "3600", "0.9", "3601", "nan"),
    "GREENSCALE_HEALTH_PORT": ("1", "65535", "0", "65536", "http"),
    "GREENSCALE_GATEWAY_PORT": ("1", "65535", "0", "65536", "http"),
    "GREENSCALE_TEMPERATURE": ("0", "2", "-1", "2.1", "warm"),
    "GREENSCALE_MAX_TOKENS": ("1", "1000000", "0", "1000001", "1e3"),
    "GREENSCALE_RESULT_TTL_SECONDS": ("0", "31536000", "-1", "31536001", "1h"),
    "GREENSCALE_TIMEOUT_SECONDS": ("0.1", "86400", "0", "86401", "5m"),
    "GREENSCALE_MAX_TRIES": ("1", "1000", "0", "1001", "x"),
    "GREENSCALE_MAX_CRASHES": ("1", "1000", "0", "1001", "x"),
    "GREENSCALE_DEAD_MAX_AGE_SECONDS": ("1", "31536000", "0", "31536001", "1d"),
    "GREENSCALE_DEAD_MAX_COUNT": ("1", "1000000000", "0", "1000000001", "1.5"),
    "GREENSCALE_LEDGER_DAYS": ("0", "92", "-1", "93", "8d"),
    "GREENSCALE_REQUESTS_PER_MINUTE": ("0.1", "100000000", "0", "100000001", "x"),
    "GREENSCALE_TOKENS_PER_MINUTE": ("1", "1000000000000", "0", "1000000000001", "x"),
    "GREENSCALE_MAX_AGE_SECONDS": ("1", "31536000", "0", "31536001", "inf"),
    "GREENSCALE_MAX_PAYLOAD_BYTES": ("1024", "8388608", "1023", "8388609", "1M"),
    "REDIS_PORT": ("1", "65535", "0", "65536", "tcp"),
    "REDIS_DB": ("0", "1000000", "-1", "1000001", "jobs"),
}


def test_every_number_has_its_bounds_tested() -> None:
    assert {setting.name for setting in catalogue() if "number" in setting.accepts} == set(NUMBERS)


@pytest.mark.parametrize(("name", "values"), NUMBERS.items(), ids=NUMBERS)
def test_numbers_have_bounds(name: str, values: tuple[str, ...]) -> None:
    least, most, *wrong = values
    assert getattr(load({name: least}), setting_of(name).field) == float(least)
    assert getattr(load({name: most}), setting_of(name).field) == float(most)
    for value in wrong:
        line = refused({name: value})
        assert line.startswith(f"{name}: '{value}' is not accepted; expected: a ")
        assert setting_of(name).accepts in line


TEXTS = {
    "NEYSA_API_URL": (
        ["http://127.0.0.1:8000/v1/chat/completions", "https://h/", "https://h/x?api-version=1"],
        ["h/v1", "ftp://h/", "https://", "https://h:port/", "https://h:99999/", "https://h/#x", "https://h/a b"],
    ),
    "OPENAI_BASE_URL": (
        ["https://api.openai.com/v1", "http://h:1/v1/"],
        ["api.openai.com", "https://h/v1/chat/completions", "https://h/v1/chat/completions/", "https://h/v1?a=b"],
    ),
    "GREENSCALE_ENDPOINT_HEADERS": (
        ['{"X-Team": "search"}', "{}"],
        ["X-Team: search", '["a"]', '{"a": 1}', '{"a b": "c"}', '{"a": "b\\nc"}', '{"": "x"}'],
    ),
    "GREENSCALE_ENDPOINT_CA_FILE": ([PEM], ["/nowhere.pem", "/", __file__]),
    "GREENSCALE_ENGINE_METRICS_URL": (
        ["", "http://vllm:8000/metrics", "http://u:p@a:1/metrics, https://b/metrics?of=all"],
        ["vllm:8000", "http://a/metrics,", "http://a/metrics b", "ftp://a/metrics"],
    ),
    "GREENSCALE_LIMIT": (["1", "1000000", "engine"], ["0", "1000001", "1.5", "-1", "motor"]),
    "GREENSCALE_SCALER_LISTEN": (
        ["0.0.0.0:6000", "127.0.0.1:0", "[::]:6000", "localhost:65535"],
        ["6000", ":6000", "::1:6000", "[h]:6000:", "h:65536", "h:-1", "http://h:1"],
    ),
    "GREENSCALE_READY_PATH": (["/", "/health", "/v1/models?x=1"], ["health", "//host/x", "/a b", "https://h/"]),
    "REDIS_URL": (
        [
            "redis://h",
            "redis://h:6380/3",
            "rediss://user:pass@h:6380/3",
            "redis://[::1]:6379/0",
            "redis+sentinel://a:1,b:2,c/master",
            "rediss+sentinel://:pw@a:1,b:2/master/2",
            "redis+cluster://a:1,b:2",
            "rediss+cluster://a:1",
        ],
        [
            "h:6379",
            "http://h",
            "redis:h",
            "redis+unix://h",
            "redis://h:0",
            "redis://h:x",
            "redis://h:99999",
            "redis://a,b",
            "redis://h/jobs",
            "redis://h/0/1",
            "redis://h?db=3",
            "redis://h/0#x",
            "redis://h/0\nx",
            "redis+sentinel://a:1",
            "redis+cluster://a:1/3",
        ],
    ),
    "REDIS_HOST": (["redis", "10.0.0.1", "my_redis", "a.b-c.svc", "::1"], ["redis://h", "h:1", "a/b", "a b", "-h"]),
    "GREENSCALE_FILES": (
        ["/data/files", "files", "s3://bucket", "s3://bucket/a/b"],
        ["gs://bucket", "s3://", "s3://bucket?x=1", "s3://user:word@bucket", "https://h/x"],
    ),
    "GREENSCALE_GATEWAY_KEY": ([f"gs_ops_{'0' * 32}"], ["sk-1", f"gs_OPS_{'0' * 32}", f"gs_ops_{'0' * 31}"]),
    "GREENSCALE_HEALTH_HOST": (["127.0.0.1", "::", "localhost"], ["0.0.0.0:80", "*"]),
    "GREENSCALE_GATEWAY_HOST": (["127.0.0.1", "::", "localhost"], ["0.0.0.0:80", "*"]),
    "REDIS_LIST_NAME": (
        ["jobs", "a:b", "{tenant}:jobs", "jobs{1}", "result"],
        ["result:x", "job:", "a{b", "a}b", "a{}", "{a}{b}", "}{", "a\tb", "{a}", "{a}:dead"],
    ),
    "REDIS_STREAM_NAME": (["energy_readings", "{tenant}:jobs"], ["result:x", "a{b"]),
    "GREENSCALE_STREAM_GROUP": (["greenscale", "processing_group", "a:b.c-1"], ["a b", "é", "a" * 129]),
    "GREENSCALE_RESULT_PREFIX": (["", "search:", "a.b_c-1"], ["a b", "{a}:", "é", "a" * 65]),
    "GREENSCALE_TAKE_FROM": (["right", "left"], ["top"]),
    "GREENSCALE_MAX_TOKENS_PARAMETER": (["max_tokens", "max_completion_tokens"], ["max_new_tokens"]),
    "GREENSCALE_LOG_FORMAT": (["auto", "json", "console"], ["text"]),
    "GREENSCALE_LOG_LEVEL": (["debug", "info", "warning", "error"], ["verbose"]),
    "GREENSCALE_LOG_EXCEPTIONS": (["auto", "true", "false"], ["yes", "True"]),
    "GREENSCALE_LOG_CONTENT": (["true", "False", "1", "no"], ["maybe", "2"]),
    "GREENSCALE_WEBHOOKS_ALLOW_PRIVATE": (["true", "false"], ["3"]),
    "GREENSCALE_POD_DELETION_COST": (["true", "false"], ["3"]),
    "GREENSCALE_POD_NAME": (
        ["greenscale-worker-6d4cf56db6-x2x7k", "a.b", "0", "a" * 253],
        ["-a", "a-", "A", "a/b", "a_b", "a" * 254],
    ),
    "NEYSA_API_KEY": ([KEY, "", "a.b/c+d="], ["a b", "a\nb", "clé"]),
    "OPENAI_API_KEY": ([KEY, ""], [" a", "a\tb"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_have_rules(name: str) -> None:
    accepted, wrong = TEXTS[name]
    for value in accepted:
        load({name: value})
    for value in wrong:
        line = refused({name: value})
        assert line.startswith(f"{name}: ")
        assert line.endswith(f"expected: {setting_of(name).accepts}")


def test_every_rule_is_tested() -> None:
    ruled = {setting.name for setting in catalogue() if setting.accepts != "any text"} - {"HTTPS_PROXY"}
    files = {
        f"GREENSCALE_{whose}_{what}_FILE" for whose in ("REDIS", "ENDPOINT", "SCALER") for what in ("CA", "CERT", "KEY")
    }
    assert ruled == set(NUMBERS) | set(TEXTS) | files


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_number_says_that_none_is_sent_where_there_may_be_none(value: str, dotenv: Path) -> None:
    dotenv.write_text("GREENSCALE_TEMPERATURE=0.3\n")
    names = ("GREENSCALE_TEMPERATURE", "GREENSCALE_MAX_TOKENS", "GREENSCALE_CONCURRENCY")
    settings = load({"NEYSA_API_KEY": KEY, **dict.fromkeys(names, value)}, dotenv)
    options = chat_options(settings)
    assert (options.temperature, options.max_tokens) == (None, None)
    assert settings.concurrency == 16
    assert chat_options(load({"NEYSA_API_KEY": KEY}, dotenv)).temperature == 0.3


async def test_what_is_accepted_for_redis_can_be_opened() -> None:
    for url in TEXTS["REDIS_URL"][0]:
        await open_redis(redis_options(load({"REDIS_URL": url}))).aclose()
    for host in TEXTS["REDIS_HOST"][0]:
        await open_redis(redis_options(load({"REDIS_HOST": host}))).aclose()


@given(st.text("jobs:{}result", min_size=1, max_size=8))
def test_a_list_name_that_is_accepted_makes_keys(name: str) -> None:
    try:
        settings = load({"REDIS_LIST_NAME": name})
    except ConfigError:
        return
    Keys(settings.list_name)


@pytest.mark.parametrize("url", TEXTS["NEYSA_API_URL"][0])
def test_what_is_accepted_for_the_endpoint_makes_a_backend(url: str) -> None:
    environ = {"NEYSA_API_URL": url, "NEYSA_API_KEY": KEY, "GREENSCALE_ENDPOINT_CA_FILE": PEM}
    for headers in TEXTS["GREENSCALE_ENDPOINT_HEADERS"][0]:
        for path in TEXTS["GREENSCALE_READY_PATH"][0]:
            settings = load({**environ, "GREENSCALE_ENDPOINT_HEADERS": headers, "GREENSCALE_READY_PATH": path})
            open_backend("chat", chat_options(settings))


def test_only_the_first_fault_is_told_and_a_long_value_is_cut() -> None:
    line = refused({"GREENSCALE_CONCURRENCY": "x" * 1000, "GREENSCALE_LOG_LEVEL": "x"})
    assert len(line) < 200
    assert "…" in line


def test_a_password_in_a_url_is_not_told() -> None:
    for url in ("ftp://user:pa55word@h/", "https://user:pa55/word@h/"):
        assert "55" not in refused({"NEYSA_API_URL": url})


# --- where they come from ---


def test_the_environment_goes_before_the_file_and_that_before_the_default(dotenv: Path) -> None:
    dotenv.write_text("GREENSCALE_CONCURRENCY=2\nGREENSCALE_MODEL=file\nFOREIGN=x\n# GREENSCALE_QUEUE=x\n")
    settings = load({"GREENSCALE_CONCURRENCY": "3", "FOREIGN": "y"}, dotenv)
    assert (settings.concurrency, settings.model, settings.drain_seconds) == (3, "file", 25.0)
    assert settings.origins == {"concurrency": "environment", "model": str(dotenv)}
    assert settings.notices == ()


def test_a_file_that_is_not_there_is_none(dotenv: Path) -> None:
    assert load({}, dotenv) == load({})


def test_an_empty_variable_is_none_and_undoes_the_file(dotenv: Path) -> None:
    dotenv.write_text("GREENSCALE_MODEL=file\nGREENSCALE_CONCURRENCY=\nREDIS_PASSWORD=x\n")
    settings = load({"GREENSCALE_MODEL": "", "REDIS_HOST": " ", "REDIS_PASSWORD": ""}, dotenv)
    assert (settings.model, settings.concurrency, settings.redis_password) == (None, 16, None)
    assert redis_options(settings) == RedisOptions()
    assert settings.origins == {}


def test_an_empty_key_in_the_file_is_a_key(dotenv: Path) -> None:
    dotenv.write_text("NEYSA_API_KEY=\n")
    assert chat_options(load({}, dotenv)).key is None


def test_the_file_is_taken_literally(dotenv: Path) -> None:
    dotenv.write_bytes(
        b"\xef\xbb\xbfREDIS_USERNAME=u\nREDIS_PASSWORD='a$b${HOME} #'\nexport GREENSCALE_MODEL=\"x y\"  # the model\n"
    )
    settings = load({}, dotenv)
    assert settings.redis_password is not None
    assert settings.redis_password.get_secret_value() == "a$b${HOME} #"
    assert (settings.redis_username, settings.model) == ("u", "x y")


def test_a_file_that_cannot_be_read_is_told(dotenv: Path) -> None:
    dotenv.write_bytes(b"GREENSCALE_MODEL=\xff")
    assert str(dotenv) in refused({}, dotenv)
    dotenv.unlink()
    dotenv.mkdir()
    assert str(dotenv) in refused({}, dotenv)


def test_a_fault_in_the_file_is_told_as_such(dotenv: Path) -> None:
    dotenv.write_text("GREENSCALE_CONCURRENCY=0\n")
    assert f"(from {dotenv})" in refused({}, dotenv)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("GREENSCALE_BACKEND=evil:handler", "GREENSCALE_BACKEND in {} would run code: evil:handler"),
        ("GREENSCALE_BACKEND=a.b.c:d.e", "GREENSCALE_BACKEND in {} would run code"),
        ("GREENSCALE_QUEUE=evil:queue", "GREENSCALE_QUEUE in {} would run code"),
        *((f"{name}_FILE=/etc/passwd", name + "_FILE in {} would have a file read") for name in SECRETS),
    ],
)
def test_a_file_that_nobody_named_chooses_no_code_and_no_secret(line: str, words: str, dotenv: Path) -> None:
    dotenv.write_text(f"{line}\n")
    said = refused({}, dotenv)
    assert said.startswith(words.format(dotenv))
    assert said.endswith(f"the option --env-file {dotenv}")
    name, value = line.split("=")
    if not name.endswith("_FILE"):
        assert getattr(load({}, dotenv, named=True), setting_of(name).field) == value
        load({name: "echo"}, dotenv)
        assert load({name: value}, dotenv).unnamed == frozenset()


def test_a_file_that_nobody_named_may_choose_what_is_installed(dotenv: Path) -> None:
    dotenv.write_text("GREENSCALE_BACKEND=echo\nGREENSCALE_QUEUE=stream\n")
    settings = load({}, dotenv)
    assert (settings.backend, settings.queue) == ("echo", "stream")
    assert settings.unnamed == {"backend", "queue"}


def test_a_named_file_must_be_there(dotenv: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        load({}, dotenv, named=True)
    assert str(dotenv) in one_line(caught.value)


# a secret, and what must come from the same source
PAIRS = [
    ({"NEYSA_API_KEY": KEY}, {"NEYSA_API_URL": "https://h/c"}),
    ({"OPENAI_API_KEY": KEY, "GREENSCALE_MODEL": "m"}, {"OPENAI_BASE_URL": "https://h/v1"}),
    ({"GREENSCALE_ENDPOINT_HEADERS": '{"a": "b"}'}, {"NEYSA_API_URL": "https://h/c", "NEYSA_API_KEY": ""}),
    ({"GREENSCALE_ENDPOINT_HEADERS": '{"a": "b"}'}, {"NEYSA_API_URL": "https://h/c", "NEYSA_API_KEY": KEY}),
    ({"REDIS_PASSWORD": "p"}, {"REDIS_HOST": "h"}),
    ({"REDIS_PASSWORD": "p"}, {"REDIS_PORT": "6380"}),
    ({"REDIS_PASSWORD": "p"}, {"REDIS_URL": "redis://h"}),
]
TRUST = [
    ({"NEYSA_API_KEY": KEY}, {"GREENSCALE_ENDPOINT_CA_FILE": PEM}),
    ({"NEYSA_API_KEY": KEY, "NEYSA_API_URL": "https://h/c"}, {"GREENSCALE_ENDPOINT_CA_FILE": PEM}),
    ({"REDIS_PASSWORD": "p", "REDIS_URL": "rediss://h"}, {"GREENSCALE_REDIS_CA_FILE": PEM}),
]


def options_of(settings: Settings) -> None:
    """Ask for what the settings amount to, as a worker does."""
    redis_options(settings)
    if settings.neysa_api_key is not None or settings.openai_api_key is not None:
        chat_options(settings)


def write(dotenv: Path, variables: Mapping[str, str]) -> None:
    dotenv.write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))


@pytest.mark.parametrize(("secret", "address"), PAIRS)
@pytest.mark.parametrize("secret_in_file", [True, False])
def test_a_secret_goes_only_where_its_own_source_says(
    secret: dict[str, str], address: dict[str, str], dotenv: Path, *, secret_in_file: bool
) -> None:
    in_file, outside = (secret, address) if secret_in_file else (address, secret)
    write(dotenv, in_file)
    with pytest.raises(ConfigError) as caught:
        options_of(load(outside, dotenv))
    line = one_line(caught.value)
    assert next(iter(secret)) in line or next(iter(address)) in line
    assert str(dotenv) in line
    assert "--env-file" in line
    for value in secret.values():
        assert value == "m" or f" {value} " not in line
    options_of(load(outside, dotenv, named=True))
    options_of(load({**secret, **address}))
    write(dotenv, {**secret, **address})
    options_of(load({}, dotenv))


@pytest.mark.parametrize(("secret", "authority"), TRUST)
def test_whom_to_trust_with_a_secret_is_not_said_by_a_file_that_nobody_named(
    secret: dict[str, str], authority: dict[str, str], dotenv: Path
) -> None:
    write(dotenv, authority)
    with pytest.raises(ConfigError) as caught:
        options_of(load(secret, dotenv))
    assert next(iter(authority)) in one_line(caught.value)
    options_of(load(secret, dotenv, named=True))
    write(dotenv, secret)
    options_of(load(authority, dotenv))


def test_a_secret_may_come_from_anywhere_for_the_default_place(dotenv: Path) -> None:
    write(dotenv, {"NEYSA_API_KEY": KEY, "REDIS_PASSWORD": "p", "GREENSCALE_ENDPOINT_HEADERS": '{"a": "b"}'})
    options_of(load({"HTTPS_PROXY": "http://proxy:1"}, dotenv))
    write(dotenv, {"HTTPS_PROXY": "http://proxy:1"})  # it sees no key: the endpoint speaks TLS through it
    options_of(load({"NEYSA_API_KEY": KEY, "REDIS_PASSWORD": "p"}, dotenv))
    write(dotenv, {"NEYSA_API_URL": "http://h/c", "REDIS_HOST": "h"})  # an empty key is none
    options_of(load({"NEYSA_API_KEY": "", "REDIS_PASSWORD": ""}, dotenv))


# --- whatever is in them ---


LONG = {"<a>": "a" * 50_000, "<urls>": "://" * 10_000, "<digits>": "9" * 5000, "<nested>": "[" * 2000}


def hostile_texts() -> st.SearchStrategy[str]:
    """What bytes in the environment become in Python, and texts that programs trip over; of LONG only the names."""
    odd = [
        "\0",
        "\udcff",
        "\ud800",
        "://",
        "://@",
        "{}",
        "\n",
        "\r\n",
        "\x1b[2J",
        "\u202e",
        "https://",
        "redis://",
        *LONG,
    ]
    bits = st.sampled_from([*odd, *":@/h ='\"#"])
    return st.lists(bits | st.text(max_size=5) | st.binary(max_size=5).map(os.fsdecode), max_size=6).map("".join)


def lengthened(text: str) -> str:
    for name, long in LONG.items():
        text = text.replace(name, long)
    return text


NAMES = [name for setting in catalogue() for name in (setting.name, f"{setting.name}_FILE")]


@settings_of_hypothesis(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    environ=st.dictionaries(
        st.sampled_from(NAMES) | hostile_texts().map("GREENSCALE_".__add__), hostile_texts(), max_size=4
    ),
    file=st.none()
    | st.binary(max_size=200)
    | st.lists(st.tuples(st.sampled_from(NAMES), hostile_texts()), max_size=4).map(
        lambda lines: "".join(f"{name}={value}\n" for name, value in lines).encode(errors="replace")
    ),
)
def test_whatever_bytes_there_are_the_worst_is_one_line(
    environ: dict[str, str], file: bytes | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dotenv = tmp_path_factory.getbasetemp() / "fuzzed.env"
    dotenv.unlink(missing_ok=True)
    if file is not None:
        dotenv.write_bytes(file)
    environ = {lengthened(name): lengthened(value) for name, value in environ.items()}
    for named in (False, True):
        said = ""
        try:
            settings = load(environ, dotenv, named=named)
        except ConfigError as error:
            said = str(error)
        else:
            for ask in (redis_options, queue_options, policy, lambda it: open_backend("chat", chat_options(it))):
                with suppress(ConfigError):
                    ask(settings)
            assert all(len(notice.name + notice.hint) < 300 for notice in settings.notices)
        assert said.isprintable()
        assert len(said) < 1000


@pytest.mark.parametrize("text", ["A=b\\\n" * 300_000, "\0" * 100_000])
def test_a_file_that_is_too_large_is_told_and_not_held(text: str, dotenv: Path) -> None:
    dotenv.write_text(text)
    assert "too large" in refused({}, dotenv)


def test_a_file_without_an_end_is_told(dotenv: Path) -> None:
    dotenv.symlink_to("/dev/zero")
    assert "no regular file" in refused({}, dotenv)
    with pytest.raises(ConfigError, match="too large"):
        load({}, dotenv, named=True)
    assert "GREENSCALE_ENDPOINT_CA_FILE" in refused({"GREENSCALE_ENDPOINT_CA_FILE": "/dev/zero"})


@pytest.mark.parametrize("line", ["= nothing", "nothing"])
def test_a_line_that_says_nothing_is_a_notice_and_names_beyond_number_are_twenty(line: str, dotenv: Path) -> None:
    dotenv.write_text(f"{line}\n" * 100 + "".join(f"GREENSCALE_X{number}=1\n" for number in range(100)))
    notices = load({}, dotenv).notices
    assert (notices[0].name, notices[0].hint) == (str(dotenv), "line 1 is not NAME=value; it is left out")
    assert len(notices) == 21


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_be_in_a_file(name: str, tmp_path: Path) -> None:
    value = {
        "REDIS_URL": "redis://h",
        "GREENSCALE_ENDPOINT_HEADERS": '{"a": "b"}',
        "GREENSCALE_GATEWAY_KEY": f"gs_ops_{'0' * 64}",
        "GREENSCALE_ENGINE_METRICS_URL": "http://u:secret@h/metrics,http://i/metrics",
    }.get(name, KEY)
    value += " " * (name == "REDIS_PASSWORD")
    file = tmp_path / "secret"
    file.write_text(f"{value}\r\n")
    settings = load({f"{name}_FILE": str(file)})
    assert getattr(settings, setting_of(name).field).get_secret_value() == value
    assert settings.origins == {setting_of(name).field: f"{name}_FILE in environment"}
    line = refused({name: value, f"{name}_FILE": str(file)})
    assert f"{name} and {name}_FILE" in line


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_never_told(name: str, tmp_path: Path) -> None:
    text = "hush hush\t{"
    (tmp_path / "secret").write_text(text)
    for environ in ({name: text}, {f"{name}_FILE": str(tmp_path / "secret")}):
        try:
            settings = load(environ)
        except ConfigError as error:
            said = str(error)
        else:
            said = f"{settings!r} {settings} {settings.model_dump()}"
        assert "hush" not in said


def test_a_file_of_a_secret_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\xff\xfe")
    Path("large").write_bytes(b"x" * 100_000)
    for path in ("binary", "large", "../" + tmp_path.name, "nowhere"):
        line = refused({"NEYSA_API_KEY_FILE": path})
        assert line.startswith(f"NEYSA_API_KEY_FILE: {path}")


def test_an_empty_file_is_an_empty_key_and_no_password(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    name = str(tmp_path / "empty")
    assert chat_options(load({"NEYSA_API_KEY_FILE": name})).key is None
    assert load({"REDIS_PASSWORD_FILE": name}).redis_password is None


def test_a_secret_in_the_environment_goes_before_its_file_in_the_dotenv(dotenv: Path) -> None:
    dotenv.write_text("NEYSA_API_KEY_FILE=/nowhere\n")
    assert chat_options(load({"NEYSA_API_KEY": KEY}, dotenv)).key == KEY


def test_a_name_that_is_no_setting_is_a_notice_with_the_nearest_one(dotenv: Path) -> None:
    dotenv.write_text("GREENSCALE_DRAIN=1\n")
    settings = load({"GREENSCALE_CONCURENCY": "0", "GREENSCALE_ENDPOINT_HEADER_FILE": "x"}, dotenv)
    hints = {notice.name: notice.hint for notice in settings.notices}
    assert hints.keys() == {"GREENSCALE_CONCURENCY", "GREENSCALE_ENDPOINT_HEADER_FILE", "GREENSCALE_DRAIN"}
    assert "GREENSCALE_CONCURRENCY" in hints["GREENSCALE_CONCURENCY"]
    assert "GREENSCALE_ENDPOINT_HEADERS_FILE" in hints["GREENSCALE_ENDPOINT_HEADER_FILE"]
    assert "GREENSCALE_DRAIN_SECONDS" in hints["GREENSCALE_DRAIN"]


@pytest.mark.parametrize(
    ("name", "meant"),
    {
        "REDIS_HOTS": "REDIS_HOST",
        "REDIS_PROT": "REDIS_PORT",
        "REDIS_LISTNAME": "REDIS_LIST_NAME",
        "REDIS_PASWORD": "REDIS_PASSWORD",
        "NEYSA_API_KYE": "NEYSA_API_KEY",
        "OPENAI_APIKEY": "OPENAI_API_KEY",
    }.items(),
)
def test_a_slip_in_a_name_that_others_may_have_is_told_too(name: str, meant: str) -> None:
    (notice,) = load({name: "x"}).notices
    assert (notice.name, notice.hint) == (name, f"there is no such setting; did you mean {meant}?")


@pytest.mark.parametrize(
    "name",
    [
        *("REDIS_SERVICE_HOST", "REDIS_SERVICE_PORT", "REDIS_SERVICE_SERVICE_PORT_REDIS", "REDIS_PORT_6379_TCP_PORT"),
        *("REDIS_MAX_CONNECTIONS", "OPENAI_API_BASE", "OPENAI_ORG_ID", "NEYSA_PROJECT"),
    ],
)
def test_names_of_services_and_of_other_programs_are_no_slips(name: str) -> None:
    assert load({name: "x"}).notices == ()


def test_what_kubernetes_injects_for_a_service_is_no_setting() -> None:
    injected = {"REDIS_PORT": "tcp://10.0.0.1:6379", "GREENSCALE_HEALTH_PORT": "tcp://10.0.0.2:80"}
    service = {"GREENSCALE_WORKER_SERVICE_HOST": "10.0.0.3", "REDIS_SERVICE_HOST": "10.0.0.1"}
    settings = load({"REDIS_URL": "redis://h", **injected, **service})
    assert redis_options(settings).url == "redis://h"
    assert settings.health_port is None
    assert {notice.name for notice in settings.notices} == {*injected, "GREENSCALE_WORKER_SERVICE_HOST"}


# --- what they amount to ---

ENDPOINT = ("NEYSA_API_URL", "NEYSA_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY")
SET = {
    "NEYSA_API_URL": "https://neysa.test/v1/chat/completions",
    "NEYSA_API_KEY": "neysa-key",
    "OPENAI_BASE_URL": "https://openai.test/v1/",
    "OPENAI_API_KEY": "openai-key",
}
CASES = list(
    itertools.product(*(("not set", "empty", "set") if "KEY" in name else ("not set", "set") for name in ENDPOINT))
)


def rows_of_the_page() -> list[list[str]]:
    lines = markdown().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("| `NEYSA_API_URL` | `NEYSA_API_KEY` |"))) + 2
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize("case", CASES, ids="|".join)
def test_each_combination_of_keys_and_urls_is_what_the_page_says(case: tuple[str, ...]) -> None:
    (row,) = (
        row for row in rows_of_the_page() if all(said in ("any", is_) for said, is_ in zip(row, case, strict=False))
    )
    where, key = row[4:6]
    given = {"set": SET, "empty": dict.fromkeys(ENDPOINT, "")}
    environ = {name: given[is_][name] for name, is_ in zip(ENDPOINT, case, strict=True) if is_ != "not set"}
    settings = load({**environ, "GREENSCALE_MODEL": "m"})
    if where.startswith("nowhere: "):
        with pytest.raises(ConfigError) as caught:
            chat_options(settings)
        assert one_line(caught.value).startswith(where.removeprefix("nowhere: "))
        return
    url = where.replace("OPENAI_BASE_URL + ", SET["OPENAI_BASE_URL"].rstrip("/")).replace(
        "NEYSA_API_URL", SET["NEYSA_API_URL"]
    )
    options = chat_options(settings)
    assert (options.url, options.key, options.model) == (url, SET.get(key), "m")


@given(st.sampled_from(CASES), st.booleans())
def test_no_key_is_ever_sent_to_the_other_party(case: tuple[str, ...], named: bool) -> None:  # noqa: FBT001  hypothesis gives it
    given = {"set": SET, "empty": dict.fromkeys(ENDPOINT, "")}
    environ = {name: given[is_][name] for name, is_ in zip(ENDPOINT, case, strict=True) if is_ != "not set"}
    try:
        options = chat_options(load({**environ, **({"GREENSCALE_MODEL": "m"} if named else {})}))
    except ConfigError:
        return
    if options.key is not None:
        assert ("neysa" in options.url) == (options.key == SET["NEYSA_API_KEY"])
        assert ("openai" in options.url) == (options.key == SET["OPENAI_API_KEY"])


def test_a_model_must_be_named_where_only_openai_is_set() -> None:
    settings = load({"OPENAI_API_KEY": KEY})
    with pytest.raises(ConfigError) as caught:
        chat_options(settings)
    assert one_line(caught.value).startswith("GREENSCALE_MODEL is not set")
    assert chat_options(settings, model_optional=True).model is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"CERT": PEM}, None),
        ({"CERT": PEM, "KEY": PEM}, None),
        ({"KEY": PEM}, "GREENSCALE_ENDPOINT_KEY_FILE is set without GREENSCALE_ENDPOINT_CERT_FILE; both are expected"),
        ({"CERT": PEM, "URL": "http://h/"}, "GREENSCALE_ENDPOINT_CERT_FILE is set without TLS; expected beside it: an"),
    ],
)
def test_our_certificate_for_the_endpoint(given: dict[str, str], expected: str | None) -> None:
    files = {f"GREENSCALE_ENDPOINT_{what}_FILE": file for what, file in given.items() if what != "URL"}
    settings = load({"NEYSA_API_KEY": KEY, "NEYSA_API_URL": given.get("URL", "https://h/"), **files})
    if expected is None:
        options = chat_options(settings)
        assert (options.cert_file, options.key_file) == (PEM, given.get("KEY"))
        return
    with pytest.raises(ConfigError) as caught:
        chat_options(settings)
    assert one_line(caught.value).startswith(expected)


def test_options_of_the_endpoint() -> None:
    settings = load(
        {
            "NEYSA_API_KEY": KEY,
            "NEYSA_API_URL": "http://h/c",
            "GREENSCALE_MODEL": "m",
            "GREENSCALE_TEMPERATURE": "0",
            "GREENSCALE_MAX_TOKENS": "7",
            "GREENSCALE_MAX_TOKENS_PARAMETER": "max_completion_tokens",
            "GREENSCALE_CONCURRENCY": "3",
            "GREENSCALE_ENDPOINT_HEADERS": '{"a": "b"}',
            "GREENSCALE_ENDPOINT_CA_FILE": PEM,
            "GREENSCALE_READY_PATH": "/health",
        }
    )
    assert chat_options(settings) == ChatOptions(
        url="http://h/c",
        key=KEY,
        model="m",
        temperature=0.0,
        max_tokens=7,
        max_tokens_parameter="max_completion_tokens",
        headers={"a": "b"},
        ca_file=PEM,
        ready_path="/health",
    )


QUEUE_NAMES = ("REDIS_LIST_NAME", "REDIS_STREAM_NAME")
PROXY = "http://user:pass@proxy.test:3128"
HOSTS = ("api.test", "deep.api.test", "api.test:8443", "xapi.test", "10.0.0.1")
NO_PROXIES = ("", "*", "api.test", ".api.test", "test", "api.test:8443", "other, api.test", "10.0.0.1", "10.0.0.0/8")


@pytest.mark.parametrize("no_proxy", NO_PROXIES)
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxy_is_chosen_as_urllib_chooses_it(
    scheme: str, host: str, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    theirs: Any = urllib.request
    expected = None if theirs.proxy_bypass_environment(host) else theirs.getproxies_environment().get(scheme)
    settings = load({**environ, "NEYSA_API_KEY": KEY, "NEYSA_API_URL": f"{scheme}://{host}/v1/chat/completions"})
    assert chat_options(settings).proxy == expected


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "http://a:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b:1"}, None),
        ({"HTTPS_PROXY": "b:1"}, "http://b:1"),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://a:1"}, None),
    ],
)
def test_spellings_of_the_proxy(environ: dict[str, str], proxy: str | None) -> None:
    assert chat_options(load({**environ, "NEYSA_API_KEY": KEY})).proxy == proxy


def test_a_proxy_that_cannot_be_used_is_a_fault_only_where_it_would_be_used() -> None:
    environ = {"HTTPS_PROXY": "socks5://user:pa55@h", "NEYSA_API_KEY": KEY}
    settings = load(environ)
    assert redis_options(settings) == RedisOptions()
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        chat_options(settings)
    assert "pa55" not in one_line(caught.value)
    assert chat_options(load({**environ, "NEYSA_API_URL": "http://h/"})).proxy is None


def test_options_of_redis() -> None:
    separate = {"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_DB": "2", "REDIS_USERNAME": "u", "REDIS_PASSWORD": " p "}
    assert redis_options(load(separate)) == RedisOptions(url="redis://h:1/2", username="u", password=" p ")  # noqa: S106  an example
    assert redis_options(load({"REDIS_HOST": "::1"})).url == "redis://[::1]:6379/0"
    url = {"REDIS_URL": "rediss://h/1", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "p"}
    files = {f"GREENSCALE_REDIS_{kind}_FILE": PEM for kind in ("CA", "CERT", "KEY")}
    assert redis_options(load({**url, **files})) == RedisOptions(
        url="rediss://h/1",
        username="u",
        password="p",  # noqa: S106  likewise
        ca_file=PEM,
        cert_file=PEM,
        key_file=PEM,
    )


def test_options_of_sentinels() -> None:
    url = {"REDIS_URL": "redis+sentinel://a,b/main", "REDIS_PASSWORD": "p"}
    assert redis_options(load(url)).sentinel_password is None
    given = redis_options(load({**url, "REDIS_SENTINEL_USERNAME": "s", "REDIS_SENTINEL_PASSWORD": "q"}))
    assert (given.sentinel_username, given.sentinel_password, given.password) == ("s", "q", "p")
    for wrong, said in (
        ({**url, "REDIS_SENTINEL_USERNAME": "s"}, "REDIS_SENTINEL_PASSWORD"),
        ({"REDIS_URL": "redis://a", "REDIS_SENTINEL_PASSWORD": "q"}, "redis+sentinel://"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            redis_options(load(wrong))
        one_line(caught.value)


def test_the_files_of_redis_are_known_to_be_read_again(tmp_path: Path) -> None:
    names = {"REDIS_PASSWORD": "password_file", "REDIS_SENTINEL_PASSWORD": "sentinel_password_file"}
    environ = {"REDIS_URL": "redis+sentinel://a/main"}
    for name in names:
        (tmp_path / name).write_text("secret\n")
        environ[f"{name}_FILE"] = str(tmp_path / name)
    options = redis_options(load(environ))
    assert (options.password, options.sentinel_password) == ("secret", "secret")
    assert {field: getattr(options, field) for field in names.values()} == {
        field: str(tmp_path / name) for name, field in names.items()
    }
    (tmp_path / "url").write_text("redis://:secret@h/0\n")
    options = redis_options(load({"REDIS_URL_FILE": str(tmp_path / "url")}))
    assert (options.url, options.url_file) == ("redis://:secret@h/0", str(tmp_path / "url"))


def test_a_line_feed_at_the_end_of_a_secret_is_no_part_of_it() -> None:
    """As `echo` leaves it in a Secret of Kubernetes, that becomes a variable."""
    assert redis_options(load({"REDIS_PASSWORD": "secret\n"})).password == "secret"  # noqa: S105  an example
    assert redis_options(load({"REDIS_PASSWORD": "\r\n"})).password is None
    assert chat_options(load({"NEYSA_API_KEY": f"{KEY}\r\n"})).key == KEY


@pytest.mark.parametrize(
    "environ",
    [
        {"REDIS_URL": "redis://h", "REDIS_HOST": "h"},
        {"REDIS_URL": "redis://h", "REDIS_PORT": "6379"},
        {"REDIS_URL": "redis://h", "REDIS_DB": "0"},
        {"REDIS_URL": "redis://u@h", "REDIS_USERNAME": "v"},
        {"REDIS_URL": "redis://:p@h", "REDIS_PASSWORD": "q"},
        {"GREENSCALE_REDIS_CA_FILE": PEM},
        {"GREENSCALE_REDIS_CERT_FILE": PEM, "REDIS_URL": "redis://h"},
        {"GREENSCALE_REDIS_KEY_FILE": PEM, "REDIS_URL": "rediss://h"},
    ],
    ids=" ".join,
)
def test_contradictions_are_told_by_both_names(environ: dict[str, str]) -> None:
    settings = load({**environ, "NEYSA_API_KEY": KEY})
    with pytest.raises(ConfigError) as caught:
        redis_options(settings)
    line = one_line(caught.value)
    assert all(name in line for name in environ if environ[name] != "rediss://h")
    chat_options(settings)


def test_a_stream_may_be_named_by_either_name_but_not_by_two() -> None:
    for environ in ({"REDIS_STREAM_NAME": "r"}, {"REDIS_LIST_NAME": "r"}, dict.fromkeys(QUEUE_NAMES, "r")):
        assert queue_options(load(environ)).name == "r"
    with pytest.raises(ConfigError) as caught:
        queue_options(load(dict(zip(QUEUE_NAMES, ("jobs", "r"), strict=True))))
    assert all(name in one_line(caught.value) for name in QUEUE_NAMES)


def test_notices_are_kept_for_a_day_or_as_long_as_results() -> None:
    for seconds, kept in ((60, 86_400.0), (200_000, 200_000.0)):
        assert queue_options(load({"GREENSCALE_RESULT_TTL_SECONDS": str(seconds)})).notices_max_age == kept


def test_options_of_the_queue() -> None:
    settings = load(
        {
            "REDIS_LIST_NAME": "{a}:jobs",
            "GREENSCALE_TAKE_FROM": "left",
            "GREENSCALE_STREAM_GROUP": "g",
            "GREENSCALE_LEASE_SECONDS": "5",
            "GREENSCALE_RESULT_TTL_SECONDS": "0",
            "GREENSCALE_RESULT_PREFIX": "a:",
            "GREENSCALE_DEAD_MAX_AGE_SECONDS": "7",
            "GREENSCALE_DEAD_MAX_COUNT": "9",
            "GREENSCALE_MAX_CRASHES": "2",
            "GREENSCALE_BACKEND": "echo",
        }
    )
    assert queue_options(settings) == QueueOptions(
        name="{a}:jobs",
        take_from="left",
        group="g",
        lease=5.0,
        result_ttl=0,
        result_prefix="a:",
        dead_max_age=7.0,
        dead_max_count=9,
        max_crashes=2,
        backend="echo",
    )


@pytest.mark.parametrize(
    ("name", "cluster", "result"),
    [
        ("jobs", False, "a:result:1"),
        ("jobs", True, "{jobs}:a:result:1"),
        ("{t}:jobs", True, "{t}:jobs:a:result:1"),
    ],
)
def test_a_prefix_stands_in_front_of_what_readers_find(name: str, result: str, *, cluster: bool) -> None:
    keys = Keys(name, cluster=cluster, public="a:")
    assert (keys.result("1"), keys.record("1")) == (result, result.replace("result", "job"))
    assert keys.cancel("1") == f"{keys.prefix}cancel:1", "what is private has the queue's own name"
    for wrong in ("a:result:x", "a:job:x"):
        with pytest.raises(ConfigError, match="begins with a:result: or a:job:"):
            Keys(wrong, public="a:")
    with pytest.raises(ConfigError, match="result prefix"):
        Keys(name, public="{a}")


def test_options_of_the_policy() -> None:
    settings = load(
        {"GREENSCALE_MAX_TRIES": "3", "GREENSCALE_TIMEOUT_SECONDS": "1.5"}
        | {"GREENSCALE_MAX_AGE_SECONDS": "60", "GREENSCALE_MAX_CRASHES": "2"}
    )
    assert policy(settings) == Policy(max_tries=3, max_crashes=2, timeout=1.5, max_age=60.0)


# --- the page, and what reading costs ---


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "make docs"


def test_the_page_holds_every_setting_and_is_a_sound_table() -> None:
    lines = [line for line in markdown().splitlines() if line.count("|") == 5]
    for setting in catalogue():
        (row,) = (line for line in lines if re.match(rf"\| `{setting.name}`(<br>`{setting.name}_FILE`)? \|", line))
        assert ("_FILE`" in row.split("|")[1]) == (setting.secret or setting.name.endswith("_FILE"))


def test_a_file_that_nothing_can_read_is_told_with_what_to_install(
    dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dotenv.parser", None)
    assert load({}, dotenv) == load({})
    dotenv.write_text("GREENSCALE_CONCURRENCY=2\n")
    said = refused({}, dotenv)
    assert said.startswith(f"{dotenv} is there, but python-dotenv, which reads it, is not installed; expected: ")
    assert "pip install python-dotenv" in said


def test_python_dotenv_is_imported_only_where_there_is_such_a_file(dotenv: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from greenscale_worker.config import load\n"
        "load({}, Path(sys.argv[1])); print('dotenv' in sys.modules)"
    )
    for text in (None, ""):
        if text is not None:
            dotenv.write_text(text)
        command = [sys.executable, "-c", script, str(dotenv)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603  our own
        assert said.strip() == str(text is not None)
