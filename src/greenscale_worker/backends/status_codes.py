"""Judges an error response at first sight: the fault of the job, or of the endpoint and the way to it.

This is a prior only: how other jobs fare decides whose fault it is.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from greenscale_worker.backends.error_body import ErrorBody
from greenscale_worker.backends.rate_headers import rates_of
from greenscale_worker.backends.retry_after import retry_after
from greenscale_worker.backends.signs import Meaning, meaning_of
from greenscale_worker.errors import PermanentError, Prior, TransientError

SHORT: Final = 200
SECRET_LENGTH: Final = 8
QUOTA: Final = "insufficient_quota"
TOO_MANY: Final = 429
NO_COMPLETION: Final = "not_a_completion"
NAME: Final = re.compile(r"[A-Za-z][A-Za-z_.:-]{0,39}")  # no digits: it may be the id of a request


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whose fault it seems to be; `certain`: the job's, however others fare. `advice` is what to check."""

    prior: Prior | Literal["certain"]
    overload: bool = False
    advice: str | None = None
    full: bool = False


JOB: Final = Judgement("job")
CERTAIN: Final = Judgement("certain")
UNKNOWN: Final = Judgement("unknown")
DOWN: Final = Judgement("endpoint")
BUSY: Final = Judgement("endpoint", overload=True)
FULL: Final = Judgement("endpoint", overload=True, full=True)
KEY: Final = Judgement(
    "endpoint", advice="the endpoint refuses the key; check that it is set, right, not expired, and belongs to this URL"
)
MONEY: Final = Judgement(
    "endpoint", advice="the account's quota, budget or credit is used up; check its plan and billing"
)
RIGHTS: Final = Judgement(
    "endpoint", advice="the endpoint forbids the call; check what the key may use: model, project, region, address"
)
MODEL: Final = Judgement(
    "endpoint", advice="the endpoint knows no such model or path; check the model and the URL that are set"
)
METHOD: Final = Judgement(
    "endpoint", advice="the URL takes no POST; check that it is the full one, ending in /chat/completions"
)
PROXY: Final = Judgement(
    "endpoint", advice="the proxy refuses its credentials; check the user and the password in its URL"
)
MOVED: Final = Judgement(
    "endpoint",
    advice="the endpoint redirects elsewhere, which is not followed so that the key stays with its host; "
    "check the URL, the final address is expected",
)

BY_MEANING: Final[Mapping[Meaning, Judgement]] = {
    "suspended": RIGHTS,
    "filtered": CERTAIN,
    "flagged": JOB,
    "never": JOB,
    "model": JOB,
    "key": KEY,
    "money": MONEY,
    "rights": RIGHTS,
    "down": DOWN,
    "busy": BUSY,
    "full": FULL,
}
BY_STATUS: Final[Mapping[int, Judgement]] = {
    401: KEY,
    402: MONEY,
    403: RIGHTS,
    405: METHOD,
    407: PROXY,
    408: UNKNOWN,
    409: UNKNOWN,
    413: CERTAIN,
    422: CERTAIN,
    424: DOWN,  # TGI: a shard is dead
    425: UNKNOWN,
    429: BUSY,
    502: DOWN,
    503: BUSY,
    504: DOWN,
    **dict.fromkeys((521, 522, 523, 525, 526, 530), DOWN),  # Cloudflare cannot reach the origin server
    529: BUSY,  # Anthropic
}
BY_CLASS: Final[Mapping[int, Judgement]] = {3: MOVED, 4: JOB}  # all others: unknown
# Statuses whose meaning no words change.
WORDLESS: Final = (*range(300, 400), 401, 407, 413)
# These outweigh a parameter's name in the error: every job gets the same one.
OF_THE_ACCOUNT: Final = ("suspended", "key", "money", "rights")

UNSUPPORTED: Final = re.compile(r"unsupported|not support|only the default|not permitted|unrecognized|unknown")
HINTS: Final[Mapping[str, str]] = {
    "temperature": "the endpoint does not take the temperature that is set; an empty GREENSCALE_TEMPERATURE sends none",
    "max_tokens": "the endpoint does not take max_tokens; GREENSCALE_MAX_TOKENS_PARAMETER=max_completion_tokens sends "
    "the limit by its newer name, an empty GREENSCALE_MAX_TOKENS none",
    "max_completion_tokens": "the endpoint does not take max_completion_tokens; "
    "GREENSCALE_MAX_TOKENS_PARAMETER=max_tokens sends the limit by its older name, an empty GREENSCALE_MAX_TOKENS none",
}


def error_of(  # noqa: PLR0913  all there is to know of an answer
    status: int,
    headers: Mapping[str, str],
    error: ErrorBody,
    *,
    defaulted: Collection[str] = (),
    secrets: Sequence[str] = (),
    code: str = NO_COMPLETION,
    otherwise: Judgement = UNKNOWN,
) -> TransientError | PermanentError:
    """Make the error for an answer with this status.

    For a success with an error inside, the status is the one that the error names; if it names none, the error has
    `code` and is judged by its words, else as `otherwise`. `defaulted` are the parameters that the configuration added
    to the job. The message is meant for the job's record: after the advice, it has up to 200 characters of the
    endpoint's own words, less the `secrets`. Only the advice may be logged.
    """
    inside = status // 100 == 2  # noqa: PLR2004  the class of successes
    named = error.status if inside else status
    meaning = meaning_of(error, trust_words=named != TOO_MANY)
    after = retry_after(headers)
    hint = _hint(error, defaulted) if named in (400, 422) else None
    judgement = otherwise if named is None else _by_status(named, error, defaulted)
    if hint is not None:
        judgement = Judgement("endpoint", advice=hint) if "model" in defaulted else JOB
    elif meaning is not None and named not in WORDLESS:
        judgement = _by_meaning(meaning, judgement, defaulted)
    judgement = _should_retry(judgement, headers.get("x-should-retry", "").lower(), after)
    if named is not None:
        code = QUOTA if named == TOO_MANY and meaning == "money" else f"http_{named}"
    message = _message(status, named, hint or judgement.advice, _quoted(error.message, secrets))
    if judgement.prior == "certain":
        return PermanentError("content_filter" if meaning == "filtered" else code, message)
    return TransientError(
        code,
        message,
        prior=judgement.prior,
        fingerprint=_fingerprint(code, error, inside=inside),
        retry_after=after,
        overload=judgement.overload,
        advice=judgement.advice,
        full=judgement.full,
        rates=rates_of(headers),
    )


def _by_status(status: int, error: ErrorBody, defaulted: Collection[str]) -> Judgement:
    if status == 400 and error.param is not None:  # noqa: PLR2004  the status itself
        return MODEL if error.param == "model" and "model" in defaulted else CERTAIN
    if status == 404:  # noqa: PLR2004  as above
        return MODEL if "model" in defaulted or _is_path(error) else JOB
    return BY_STATUS.get(status) or BY_CLASS.get(status // 100, UNKNOWN)


def _by_meaning(meaning: Meaning, by_status: Judgement, defaulted: Collection[str]) -> Judgement:
    """Judge by the words. A status that is certain stays so, unless they are about the account or the model set."""
    if meaning == "model" and "model" in defaulted:
        return MODEL
    if by_status.prior == "certain" and meaning not in OF_THE_ACCOUNT:
        return CERTAIN
    return BY_MEANING[meaning]


def _is_path(error: ErrorBody) -> bool:
    """Return whether a 404 comes from a web server that knows no such path, not from a model server."""
    return error.shape == "html" or error.message.lower() in ("not found", "404 page not found", "no route matched")


def _hint(error: ErrorBody, defaulted: Collection[str]) -> str | None:
    """Return which setting to change if the endpoint refuses a parameter that the configuration added, else None."""
    said = " ".join([*error.names, error.message]).lower()
    if not UNSUPPORTED.search(said):
        return None
    wrong = error.param or next((word for word in re.findall(r"\w+", said) if word in HINTS), None)
    return HINTS.get(wrong) if wrong is not None and wrong in defaulted else None


def _should_retry(judgement: Judgement, said: str, after: float | None) -> Judgement:
    """Apply `x-should-retry`, which is meant for interactive clients: their users cannot wait, a queue can.

    So `false` only counts where waiting would not help, and no `Retry-After` is beside it.
    """
    if said == "true" and judgement.prior in ("job", "certain"):
        return UNKNOWN
    if said == "false" and judgement.prior == "unknown" and after is None:
        return JOB
    return judgement


def _message(status: int, named: int | None, advice: str | None, said: str) -> str:
    head = f"HTTP {status}"
    if named != status:
        head += " with an error inside" if named is None else f" with an error {named} inside"
    return ": ".join(part for part in (head, advice, said) if part)


def _quoted(message: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if len(secret) >= SECRET_LENGTH:
            message = message.replace(secret, "[hidden]")
    return message[:SHORT]


def _fingerprint(code: str, error: ErrorBody, *, inside: bool) -> str:
    """Return what similar errors have in common, without free text, which may quote a prompt."""
    names = (name for name in error.names if NAME.fullmatch(name))
    parts = (code, "inside" if inside else "", next(names, ""), error.shape)
    return " ".join(part for part in parts if part)
