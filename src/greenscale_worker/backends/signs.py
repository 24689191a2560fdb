"""Names and words by which endpoints say what is wrong, whatever the status.

The only list of its kind. Each row names an endpoint that sends it; all else is judged by status (`status_codes`).
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from greenscale_worker.backends.error_body import ErrorBody

Meaning = Literal[
    "suspended", "filtered", "flagged", "never", "model", "key", "money", "rights", "down", "busy", "full"
]
"""suspended, key, money, rights: of the account. filtered, flagged, never, model: of the request. down, busy: now.
full: busy, as a limit on its queue says."""

NOTHING: Final = r"(?!)"
LONGEST_READ: Final = 1000  # characters of a message: what comes later is mostly a quotation


@dataclass(frozen=True, slots=True)
class Sign:
    """`names` is a pattern of whole names for machines (code, type …), `words` one of words in the message."""

    meaning: Meaning
    names: re.Pattern[str]
    words: re.Pattern[str]


def _sign(meaning: Meaning, names: str, words: str) -> Sign:
    return Sign(meaning, re.compile(names), re.compile(words))


# The first match counts. All patterns are in lower case.
SIGNS: Final = (
    # OpenAI: account_deactivated. Alibaba: 400 Arrearage, "in good standing". Google: "Consumer … has been suspended".
    _sign(
        "suspended",
        r"account_deactivated|account_suspended|arrearage|billing_not_active",
        r"(account|organi[sz]ation|workspace|project|consumer)\b.{0,60}\b(suspended|deactivated|disabled|banned)"
        r"|good standing",
    ),
    # Azure: 400 content_filter. OpenAI: content_policy_violation. Alibaba: data_inspection_failed.
    _sign(
        "filtered",
        r"content_?filter(ed)?|content_policy_violation|responsibleaipolicyviolation|data_?inspection_?failed",
        NOTHING,
    ),
    # OpenRouter: 403 "input was flagged for violence". DeepSeek: 400 "Content Exists Risk". OpenAI: "usage policies".
    _sign(
        "flagged",
        r"moderation\w*",
        r"\bflagged\b|\bmoderation\b|content (management )?polic|content exists risk|inappropriate content"
        r"|usage polic|safety (system|filter)",
    ),
    # OpenAI, Groq: 429 "Request too large … must be reduced". OpenRouter: 402 "fewer max_tokens … can only afford".
    # llama.cpp: exceed_context_size_error. Anthropic: "prompt is too long".
    _sign(
        "never",
        r"context_length_exceeded|exceed_context_size_error|request_too_large",
        r"request too large|must be reduced|reduce (the|your) |fewer (max_)?tokens|ask for fewer|can only afford"
        r"|maximum context length|prompt is too long|available context size",
    ),
    # OpenAI: model_not_found, also with 403. Azure: DeploymentNotFound. vLLM: "does not exist". Ollama: "not found".
    _sign(
        "model",
        r"model_not_found|modelnotfound\w*|deploymentnotfound|invalid_model|unknown_model",
        r"\bmodels?\b.{0,100}\b(does not exist|not found|no such)|(unknown|invalid|no such) model"
        r"|not have access to model",
    ),
    # xAI: 400 "Incorrect API key". Google: 400 API_KEY_INVALID. LiteLLM: 500 "AuthenticationError". DeepSeek.
    _sign(
        "key",
        r"(invalid|incorrect|expired|missing|disabled)_?(api_?)?key|api_?key_?(invalid|expired)|(invalid|expired)_token"
        r"|token_expired|invalid_?authentication\w*|authentication_?error|auth_error|unauthenticated",
        r"(incorrect|invalid|wrong|expired|missing|revoked|disabled|no) (api|subscription|access)[ _-]?(key|token)"
        r"|(api[ _-]?key|access token) (is |has |was )?"
        r"(not valid|not found|invalid|expired|missing|incorrect|revoked|disabled)"
        r"|authentication ?(error|failed|fails)|invalid credentials",
    ),
    # OpenAI: insufficient_quota. LiteLLM: budget_exceeded. Anthropic: 400 "credit balance is too low". DeepSeek: 402.
    _sign(
        "money",
        r"insufficient_(user_)?(quota|balance|credits?|funds)|budget_exceeded|billing_\w+|exceeded_current_quota\w*",
        r"budget has been exceeded|exceeded\w* (token ?)?budget|exceeded your current quota|credit balance"
        r"|insufficient (balance|credits?|funds|quota)|out of credits?|spend(ing)? limit|\bbilling\b",
    ),
    # Anthropic: permission_error. Google: 400 "User location is not supported". Bedrock: AccessDeniedException.
    _sign(
        "rights",
        r"permission_?(denied|error)|access_?denied\w*|insufficient_permissions|unsupported_country\w*",
        r"permission denied|access denied|not have (access|permission)|location is not supported"
        r"|not (allowed|authori[sz]ed|permitted) to",
    ),
    # vLLM: 500 "cannot schedule new futures", "EngineCore encountered an issue". TGI: 424 "transport error". Envoy.
    # llama.cpp, Hugging Face: 503 "Loading model". LiteLLM: 429 "No deployments available". New API, SGLang's router.
    _sign(
        "down",
        r"engine_?dead\w*",
        r"cannot schedule new futures|engine ?core|engine (is )?(dead|stopped|not running)|background loop has errored"
        r"|transport error|no healthy upstream|upstream connect error|connection refused"
        r"|model is (currently |still )?(loading|starting)|\bloading model\b|shutting down"
        r"|no (deployments|available (channel|server|worker|provider)s?)\b",
    ),
    # vLLM with --max-num-queued-reqs: 503 "Please try again later or on a different instance".
    _sign("full", NOTHING, r"try again later or on a different instance"),
    # Anthropic: overloaded_error. Google: RESOURCE_EXHAUSTED, UNAVAILABLE. Bedrock: ThrottlingException. vLLM: backlog.
    _sign(
        "busy",
        r"(engine_|server_|model_)?overloaded(_error)?|rate_?limit\w*|too_many_requests|resource_exhausted|throttl\w*"
        r"|no_capacity|capacity_exceeded|serviceunavailable|unavailable",
        r"\boverloaded\b|at capacity|capacity exceeded|too many (concurrent )?requests|rate limit|queue is full"
        r"|backlog limit",
    ),
)


def meaning_of(error: ErrorBody, *, trust_words: bool = True) -> Meaning | None:
    """Return what an error means by its names or its words; None if no sign is known.

    Without `trust_words`, words about money are ignored: Google says "check your plan and billing" of limits by
    the minute.
    """
    names = [name.lower() for name in error.names]
    words = error.message[:LONGEST_READ].lower()
    for sign in SIGNS:
        if any(sign.names.fullmatch(name) for name in names):
            return sign.meaning
        if sign.words.search(words) and (trust_words or sign.meaning != "money"):
            return sign.meaning
    return None
