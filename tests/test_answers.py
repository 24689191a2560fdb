"""What endpoints really send, and what it is taken for: files of whole answers, and a table of errors by provider."""

from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from greenscale_worker.backends.error_body import error_in, read_error
from greenscale_worker.backends.status_codes import error_of
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.job import Output
from tests.support.endpoint import Endpoint, Reply
from tests.test_chat import ask, fault, kind

FILES: Final = Path(__file__).parent / "data" / "answers"


def replay(name: str) -> Reply:
    """The answer in a file: head, an empty line, body."""
    head, _, body = (FILES / f"{name}.http").read_bytes().partition(b"\n\n")
    body = body.rstrip(b"\n")
    lines = [*head.split(b"\n"), b"Content-Length: %d" % len(body), b"", body]
    return Reply(raw=b"\r\n".join(lines))


FAULTS: Final = {
    "200-error-inside": ("endpoint", "http_429", "slow down"),
    "200-finish-error": ("endpoint", "http_502", "the provider went away"),
    "400-budget-exceeded": ("mend", "http_400", "Max budget: 10.0"),
    "400-wrong-key": ("mend", "http_400", "Incorrect API key provided"),
    "402-more-tokens-than-credit": ("job", "http_402", "ask for fewer"),
    "403-input-flagged": ("job", "http_403", "flagged for violence"),
    "422-detail": ("certain", "http_422", "messages: Field required"),
    "424-shard-dead": ("endpoint", "http_424", "transport error"),
    "429-never-fits": ("job", "http_429", "must be reduced"),
    "429-should-not-retry": ("endpoint", "http_429", "rate limit"),
    "500-engine-dead": ("endpoint", "http_500", "EngineCore encountered an issue"),
    "502-that-one-prompt-causes": ("endpoint", "http_502", "502 Bad Gateway"),
    "400-only-temperature-1": ("mend", "http_400", "an empty GREENSCALE_TEMPERATURE sends none"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_an_answer_from_the_field_is_taken_for_what_it_says(name: str) -> None:
    expected, code, quoted = FAULTS[name]
    async with Endpoint(replay(name)) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) == (expected, code)
    assert quoted in str(error)


async def test_a_time_to_come_back_outweighs_x_should_retry() -> None:
    async with Endpoint(replay("429-should-not-retry")) as endpoint:
        error = await fault(endpoint.url)
    assert isinstance(error, TransientError)
    assert (error.prior, error.retry_after, error.overload) == ("endpoint", 10.0, True)


TAKEN: Final = {
    "200-half-an-emoji": "Well done \ufffd",
    "200-header-of-9000-bytes": "fine",
    "200-function-call": '{"role":"assistant","content":null,"function_call":'
    '{"name":"get_weather","arguments":"{\\"city\\":\\"Rome\\"}"}}',
}


@pytest.mark.parametrize("name", TAKEN)
async def test_an_answer_from_the_field_is_taken(name: str) -> None:
    async with Endpoint(replay(name)) as endpoint:
        output = await ask(endpoint.url)
    assert output.text == TAKEN[name]
    assert orjson.loads(output.body)["choices"]


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FILES.iterdir()} == FAULTS.keys() | TAKEN.keys()


# --- a whole answer is not thrown away for its edges ---

CONTENT: Final = rb'{"choices": [{"message": {"content": "4%b"}, "finish_reason": "stop", "logprobs": %b}]}'
EDGES: Final = {
    "half an emoji": (rb"\ud83d", b"null", "4\ufffd"),
    "its other half": (rb"\ude00", b"null", "4\ufffd"),
    "a whole one in two": (rb"\ud83d\ude00", b"null", "4\U0001f600"),
    "a backslash before what looks like half of one": (rb"\\ud83d", b"null", "4\\ud83d"),
    "cut amid a character": (b"\xf0\x9f\x98", b"null", "4\ufffd"),
    "Latin-1": (b"caf\xe9", b"null", "4caf\ufffd"),
    "a raw line feed": (b"\n", b"null", "4\n"),
    "NaN": (b"", b'{"logprob": NaN}', "4"),
    "Infinity": (b"", b"[-Infinity, Infinity]", "4"),
    "a float out of range": (b"", b"-1e999", "4"),
    "a large whole number": (b"", b"1180591620717411303424", "4"),
}


@pytest.mark.parametrize(("inserted", "logprobs", "expected"), EDGES.values(), ids=EDGES)
async def test_an_answer_is_kept_with_its_edges_mended(inserted: bytes, logprobs: bytes, expected: str) -> None:
    async with Endpoint(Reply(pieces=(CONTENT % (inserted, logprobs),))) as endpoint:
        output = await ask(endpoint.url)
    assert output.text == expected
    assert orjson.loads(output.body)["choices"][0]["message"]["content"] == expected
    assert (b"1180591620717411303424" in output.body) == (logprobs == b"1180591620717411303424")


async def test_a_byte_order_mark_costs_no_answer() -> None:
    async with Endpoint(Reply(pieces=(b"\xef\xbb\xbf" + CONTENT % (b"", b"null"),))) as endpoint:
        output = await ask(endpoint.url)
    assert output.text == "4"
    assert output.body.startswith(b"{")


async def test_numbers_in_a_call_are_those_that_came() -> None:
    call = b'{"role":"assistant","content":null,"tool_calls":[{"arguments":{"id":1180591620717411303424}}]}'
    body = b'{"choices":[{"message":%b,"finish_reason":"tool_calls"}]}' % call
    async with Endpoint(Reply(pieces=(body,))) as endpoint:
        assert await ask(endpoint.url) == Output(call.decode(), None, "tool_calls", body=body)


# --- errors, by provider ---

E = dict[str, Any]


def openai(message: str, type_: str | None = None, code: Any = None, param: Any = None) -> E:
    """The shape of OpenAI, and of most."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


OWN: Final = {"prompt": "?", "model": "mine", "temperature": 0.1, "max_tokens": 9}
INVALID: Final = "invalid_request_error"
SAID: Final[dict[str, list[tuple[str, int, Any]]]] = {
    "certain": [
        ("OpenAI, a parameter", 400, openai("Invalid 'top_p': at most 1", INVALID, "decimal_above_max", "top_p")),
        ("OpenAI, too long", 400, openai("maximum context length", INVALID, "context_length_exceeded", "messages")),
        ("vLLM, a parameter", 400, openai("max_tokens must be at least 1", "BadRequestError", 400, "max_tokens")),
        ("Azure, filtered", 400, openai("… content management policy", None, "content_filter", "prompt")),
        ("Azure, by its inner error", 400, {"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
        ("Alibaba, filtered", 400, openai("may contain inappropriate content.", None, "data_inspection_failed")),
        ("Groq, too large", 413, openai("Request too large for model", "tokens", "rate_limit_exceeded")),
        ("Anthropic, too large", 413, {"type": "error", "error": {"type": "request_too_large", "message": "x"}}),
        ("FastAPI, a field", 422, {"detail": [{"loc": ["body", "n"], "msg": "Input should be 1", "type": "x"}]}),
        ("Mistral, a field", 422, {"object": "error", "message": {"detail": [{"loc": ["body"], "msg": "Extra"}]}}),
        ("a parameter called like a limit", 400, openai("stop: 'rate limit' is too long", INVALID, None, "stop")),
    ],
    "job": [
        ("OpenAI, JSON", 400, openai("We could not parse the JSON body of your request.", INVALID)),
        ("Anthropic, too long", 400, {"type": "error", "error": {"type": INVALID, "message": "prompt is too long"}}),
        ("llama.cpp, too long", 400, openai("exceeds the available context size", "exceed_context_size_error", 400)),
        ("DeepSeek, risk", 400, openai("Content Exists Risk", INVALID, INVALID)),
        ("Google, an argument", 400, [{"error": {"code": 400, "message": "Bad", "status": "INVALID_ARGUMENT"}}]),
        ("OpenRouter, credit", 402, openai("requires … fewer max_tokens … can only afford 900", None, 402)),
        ("Together, too long", 403, openai("Input token count … reduce the length of messages", INVALID)),
        ("OpenAI, policy", 403, openai("Your request was rejected by our safety system.", "image_error")),
        ("OpenAI, TPM", 429, openai("Request too large for gpt-4o … Limit 30000, Requested 48211", "tokens")),
        ("LiteLLM, too long", 500, openai("litellm.ContextWindowExceededError: maximum context length", None, "500")),
        ("OpenAI, model", 404, openai("The model `mine` does not exist", INVALID, "model_not_found")),
        ("Ollama, model", 404, {"error": "model 'mine' not found"}),
        ("Mistral, model", 400, {"object": "error", "message": "Invalid model: mine", "code": "1500"}),
        ("OpenAI, model of others", 403, openai("no access", INVALID, "model_not_found")),
    ],
    "mend": [
        ("xAI, key", 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: x."}),
        ("Google, key", 400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}]),
        ("Google, key by reason", 400, {"error": {"message": "Bad", "details": [{"reason": "API_KEY_INVALID"}]}}),
        ("LiteLLM, upstream's key", 500, openai("litellm.AuthenticationError: Incorrect API key", None, "500")),
        ("LiteLLM, key", 400, openai("Authentication Error, Key expired", "auth_error", "400", "None")),
        ("Azure, gateway", 401, {"statusCode": 401, "message": "Access denied due to invalid subscription key"}),
        ("DeepSeek, key", 401, openai("Authentication Fails (no such user)", "authentication_error", INVALID)),
        ("vLLM, key", 401, {"error": "Unauthorized"}),
        ("Anthropic, credit", 400, {"error": {"type": INVALID, "message": "Your credit balance is too low to access"}}),
        ("DeepSeek, credit", 402, openai("Insufficient Balance", "unknown_error", INVALID)),
        ("LiteLLM, budget", 429, openai("ExceededBudget: …", "budget_exceeded", "429")),
        ("Moonshot, quota", 429, openai("Your account … is suspended", "exceeded_current_quota_error")),
        ("Alibaba, arrears", 400, openai("Access denied, … account is in good standing.", "Arrearage", "Arrearage")),
        ("OpenAI, flagged account", 403, openai("Your organization has been disabled: content policy", INVALID)),
        ("Google, region", 400, [{"error": {"message": "User location is not supported for the API use."}}]),
        ("Bedrock, rights", 403, {"__type": "AccessDeniedException", "Message": "no"}),
        ("Cloudflare, blocked", 403, b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"),
        ("nginx, path", 404, b"<html><head><title>404 Not Found</title></head></html>"),
        ("a key although a parameter is named", 400, openai("API key is invalid", INVALID, None, "api_key")),
    ],
    "endpoint": [
        ("vLLM drains", 500, openai("cannot schedule new futures after shutdown", "InternalServerError", 500)),
        ("vLLM, dead before", 500, {"object": "error", "message": "Background loop has errored already.", "code": 500}),
        ("vLLM, backlog", 503, openai("has reached its prefill token backlog limit.", "Service Unavailable", 503)),
        ("SGLang's router", 503, b"No available workers"),
        ("Envoy", 503, b"upstream connect error or disconnect/reset before headers. reset reason: connection failure"),
        ("llama.cpp, loading", 503, openai("Loading model", "unavailable_error", 503)),
        ("LiteLLM, cooling down", 429, openai("No deployments available for selected model", "None", "429")),
        ("New API", 500, openai("There are no available channels for model x", "new_api_error")),
        ("Anthropic, overloaded", 529, {"type": "error", "error": {"type": "overloaded_error"}}),
        ("Anthropic by a proxy", 500, {"error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ("Google, each minute's limit", 429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
          "You exceeded your current quota, please check your plan and billing details."}}]),
        ("Bedrock", 400, {"__type": "ThrottlingException", "message": "Too many requests, wait"}),
        ("OpenRouter's provider", 429, {"error": {"message": "Provider returned error", "metadata": {"raw": "x"}}}),
        ("Cloudflare, nobody there", 522, b"<title>example.com | 522: Connection timed out</title>"),
        ("TGI, overloaded", 429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        ("TGI, dead", 424, {"error": "Request failed during generation", "error_type": "generation"}),
    ],
    "unknown": [
        ("OpenAI, 500", 500, openai("The server had an error while processing your request.", "server_error")),
        ("Ollama, 500", 500, {"error": "llama runner process has terminated: exit status 2"}),
        ("CUDA", 500, openai("CUDA error: device-side assert triggered", "InternalServerError", 500)),
        ("Cloudflare, slow", 524, b"<html><title>524: A timeout occurred</title></html>"),
        ("a bare traceback", 500, b"Internal Server Error"),
        ("nothing", 500, b""),
    ],
}  # fmt: skip
ROWS: Final = [(expected, *row) for expected, rows in SAID.items() for row in rows]


@pytest.mark.parametrize(("expected", "name", "status", "said"), ROWS, ids=[row[1] for row in ROWS])
def test_what_providers_say_is_understood(expected: str, name: str, status: int, said: Any) -> None:  # noqa: ARG001  the name is the test's
    error = error_of(status, {}, read_error(said if isinstance(said, bytes) else orjson.dumps(said)))
    assert kind(error) == expected


INSIDE: Final = [
    ("endpoint", "http_429", {"error": {"message": "no", "code": "429"}}),
    ("endpoint", "http_503", [{"error": {"message": "no", "code": 503, "status": "UNAVAILABLE"}}]),
    ("endpoint", "not_a_completion", {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
    ("endpoint", "not_a_completion", {"error": "Model is overloaded", "choices": []}),
    ("mend", "http_401", {"error": {"message": "no", "code": 401}, "choices": None}),
    (
        "mend",
        "not_a_completion",
        {"base_resp": {"status_code": 1004, "status_msg": "invalid api key"}, "choices": None},
    ),
    ("mend", "not_a_completion", {"error_code": 110, "error_msg": "Access token invalid or expired token"}),
    ("certain", "http_400", {"error": {"message": "no", "code": 400, "param": "top_p"}}),
    ("unknown", "http_500", {"object": "error", "message": "no", "code": 500}),
    ("unknown", "not_a_completion", {"error": {"message": "no"}}),
    ("unknown", "not_a_completion", {"error": {}}),
    ("unknown", "not_a_completion", {"error": None, "choices": []}),
]


@pytest.mark.parametrize(("expected", "code", "said"), INSIDE)
async def test_an_error_inside_a_200_is_taken_for_what_it_names(expected: str, code: str, said: Any) -> None:
    async with Endpoint(Reply(json=said)) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) == (expected, code)
    assert "200" in str(error) or "no chat completion" in str(error)


# --- faults that are alike ---


def fingerprint(status: int, said: Any) -> str:
    """What such an answer has in common with its like."""
    error = error_of(status, {}, read_error(said if isinstance(said, bytes) else orjson.dumps(said)))
    assert isinstance(error, TransientError)
    return error.fingerprint


@pytest.mark.parametrize(
    "said",
    [
        lambda text: openai(text, "server_error"),
        lambda text: {"error": text},
        lambda text: {"error": {"message": text, "request_id": text}},
        lambda text: {"detail": text},
        lambda text: {"code": text, "error": text},
        lambda text: b"<html><title>" + text.encode() + b"</title></html>",
        lambda text: text.encode(),
    ],
)
def test_faults_that_differ_only_in_their_text_are_alike(said: Any) -> None:
    one, other = (fingerprint(500, said(text)) for text in ("A prompt, say.", "Another at 12:30, request 7"))
    assert one == other
    assert "prompt" not in one


@pytest.mark.parametrize(
    "said",
    [
        lambda id_: openai("no", "server_error", f"ERR-{id_}"),
        lambda id_: openai("no", f"request_{id_}"),
        lambda id_: {"code": f"E{id_}", "message": "no"},
        lambda id_: {"error": {f"req_{id_}": "no"}},
        lambda id_: {"error": {"details": [{"reason": f"TRACE_{id_}"}]}},
    ],
)
def test_faults_that_differ_only_in_the_id_of_a_request_are_alike(said: Any) -> None:
    assert fingerprint(400, said("7f3a9")) == fingerprint(400, said("b21c4"))


def test_faults_that_differ_otherwise_are_not_alike() -> None:
    said = [openai("x", "server_error"), openai("x", "internal"), {"error": "x"}, {"detail": "x"}, b"<html>", b"x", b""]
    seen = [fingerprint(500, each) for each in said] + [fingerprint(502, b"x")]
    assert len(set(seen)) == len(seen), seen


# --- whose setting it is ---

UNSUPPORTED: Final = {
    "temperature": "Unsupported value: 'temperature' does not support 0.7 with this model.",
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
}


@pytest.mark.parametrize("param", UNSUPPORTED)
@pytest.mark.parametrize("named", [True, False])
async def test_a_parameter_that_only_the_settings_ask_for_is_no_jobs_fault(param: str, named: bool) -> None:  # noqa: FBT001  a column of the table
    said = openai(UNSUPPORTED[param], INVALID, "unsupported_value", param if named else None)
    setting = {"temperature": "GREENSCALE_TEMPERATURE", "max_tokens": "GREENSCALE_MAX_TOKENS_PARAMETER=max_completion"}
    async with Endpoint(default=Reply(status=400, json=said)) as endpoint:
        error = await fault(endpoint.url)
        assert kind(error) == "mend"
        assert setting[param] in str(error)
        of_its_model = await fault(endpoint.url, {"prompt": "?", "model": "mine"})
        assert kind(of_its_model) == "job"
        assert setting[param] in str(of_its_model)
        of_the_job = await fault(endpoint.url, OWN)
        assert kind(of_the_job) == ("certain" if named else "job")
        assert "GREENSCALE" not in str(of_the_job)


async def test_a_limit_that_is_too_large_for_this_prompt_is_no_settings_fault() -> None:
    said = openai("max_tokens=1024 cannot be greater than max_model_len=512.", "BadRequestError", 400, "max_tokens")
    async with Endpoint(Reply(status=400, json=said)) as endpoint:
        assert isinstance(await fault(endpoint.url), PermanentError)


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_an_unknown_model_that_is_set_is_no_jobs_fault(status: int) -> None:
    said = openai("The model `llama` does not exist", INVALID, "model_not_found", "model")
    async with Endpoint(default=Reply(status=status, json=said)) as endpoint:
        assert kind(await fault(endpoint.url)) == "mend"
        assert kind(await fault(endpoint.url, OWN)) == ("job" if status == 404 else "certain")


def test_whatever_stands_for_an_error_is_read() -> None:
    hostile = [
        None,
        7,
        "",
        [],
        [[]],
        {"error": [7]},
        {"errors": {"a": 1}},
        {"error": {"metadata": 7, "message": {"a": 1}}},
    ]
    for said in hostile:
        assert isinstance(error_in(said).message, str)
