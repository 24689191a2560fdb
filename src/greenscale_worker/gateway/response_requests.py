"""Requests of OpenAI's Responses, as chat completions. What cannot be said in those is refused by its name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.waiting import job_class_of
from greenscale_worker.job import CHAT_PATH
from greenscale_worker.queues import JobClass

REFUSED: Final[Mapping[str, str]] = {
    "previous_response_id": "send the whole conversation as `input`",
    "conversation": "send the whole conversation as `input`",
    "prompt": "send its text as `instructions` and `input`",
    "messages": "`input` is expected",
    "max_tool_calls": "there are no built-in tools",
    **dict.fromkeys(
        (
            "access_programs",
            "background_options",
            "context_management",
            "image",
            "moderation",
            "prompt_cache_options",
            "prompt_cache_retention",
            "top_logprobs",
        ),
        "leave it out",
    ),
}
REFUSED_INCLUDES: Final = ("reasoning.encrypted_content", "message.output_text.logprobs")
OURS: Final = frozenset(
    {
        *("input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "metadata"),
        *("service_tier", "store", "stream", "stream_options", "background", "include", "truncation"),
    }
)  # all other fields go to the endpoint as they are
Message = dict[str, Any]


class _Part(BaseModel):
    """A part of a request, strict about types."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class FunctionTool(_Part):
    """A function that the model may call. Others, built-in ones among them, are not supported."""

    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenFunction(_Part):
    """The function that the model must call."""

    type: Literal["function"]
    name: str


class TextFormat(_Part):
    """Which form the text has: `json_schema` needs `name` and `schema`."""

    type: Literal["text", "json_object", "json_schema"]


class TextConfig(_Part):
    """How the text is to be."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(_Part):
    """How much the model is to reason."""

    effort: str | None = None
    summary: Literal["auto"] | None = None


Label = Annotated[str, StringConstraints(max_length=64)]
Note = Annotated[str, StringConstraints(max_length=512)]


class ResponseRequest(BaseModel):
    """A response, as OpenAI's clients ask for it. Fields that are not of OpenAI's go to the endpoint as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    input: str | list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    parallel_tool_calls: bool | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    metadata: dict[Label, Note] | None = Field(None, max_length=16)
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    truncation: Literal["disabled"] | None = None
    include: list[str] | None = None
    service_tier: Literal["auto", "priority", "default", "flex"] | None = Field(
        None,
        description="`flex`: as a background job, `default`: as a standard one; else as an interactive one, and with"
        " `background` as a standard one.",
    )
    store: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    background: bool | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: the `request` as it came, and the `chat` completion that it is.

    `store`: None where it does not say.
    """

    request: dict[str, Any]
    chat: dict[str, Any]
    job_class: JobClass
    stream: bool
    background: bool
    store: bool | None

    @classmethod
    def of(cls, request: dict[str, Any], limit: str) -> "Asked":
        """Read a request; `limit` is the endpoint's name of the most tokens. Raises Problem, which names the field."""
        for name, instead in REFUSED.items():
            if request.get(name) is not None:
                _refuse(name, f"cannot be done here; {instead}")
        try:
            asked = ResponseRequest.model_validate(request)
        except ValidationError as error:
            raise of_validation(error) from None
        for included in asked.include or ():
            if included in REFUSED_INCLUDES:
                _refuse("include", f"{included} cannot be done here; leave it out")
        if asked.background and asked.store is False:
            _refuse("store", "what runs in the background is stored; true or none is expected")
        tier = asked.service_tier
        job_class = "standard" if asked.background and tier in (None, "auto") else job_class_of(tier)
        chat = _chat_of(request, asked, limit)
        return cls(request, chat, job_class, bool(asked.stream), bool(asked.background), asked.store)

    def fields(self, *, tokens: bool) -> dict[str, Any]:
        """Return the job, a line of OpenAI's Batch. `tokens`: its text is shown as it comes."""
        told = {name: self.request[name] for name in ("metadata",) if self.request.get(name)}
        shown = {"tokens": True} if tokens else {}
        return {"url": CHAT_PATH, "body": self.chat, "keep": "body", **told, **shown}


def _chat_of(request: Mapping[str, Any], asked: ResponseRequest, limit: str) -> dict[str, Any]:
    """Return the chat completion."""
    chat = {name: value for name, value in request.items() if name not in OURS and value is not None}
    first = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    chat["messages"] = [*first, *messages_of(asked.input)]
    if asked.max_output_tokens is not None:
        chat[limit] = asked.max_output_tokens
    if asked.tools:
        chat["tools"] = [_tool(tool) for tool in request["tools"]]
    if asked.tool_choice is not None:
        chat["tool_choice"] = _choice(asked.tool_choice)
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        chat["reasoning_effort"] = asked.reasoning.effort
    if asked.text is not None:
        chat |= {"verbosity": asked.text.verbosity} if asked.text.verbosity else {}
        chat |= _format(request["text"].get("format"))
    return chat


def _choice(chosen: str | ChosenFunction) -> Any:
    return chosen if isinstance(chosen, str) else {"type": "function", "function": {"name": chosen.name}}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _format(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the format of the text as chat completions have it."""
    if told is None or told["type"] == "text":
        return {}
    if told["type"] == "json_object":
        return {"response_format": {"type": "json_object"}}
    if not isinstance(told.get("name"), str) or not isinstance(told.get("schema"), dict):
        _refuse("text.format", "a name and a schema are expected beside json_schema")
    names = ("name", "description", "schema", "strict")
    schema = {name: told[name] for name in names if told.get(name) is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def messages_of(given: str | Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the messages that an input is. Raises Problem, which names the item.

    What the model has said and the calls that it made in the same turn are one message. Its reasoning is left out.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages = list[Message]()
    for at, item in enumerate(given):
        for message in _messages(item, f"input.{at}"):
            last = messages[-1] if messages else {}
            if message.get("tool_calls") and last.get("role") == "assistant":
                last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
            else:
                messages.append(message)
    if not messages:
        _refuse("input", "has nothing to answer; a message is expected")
    return messages


def _messages(item: Mapping[str, Any], where: str) -> Iterator[Message]:
    for name in ("id", "status"):
        if item.get(name) is not None:
            _text(item, name, where)
    match item.get("type", "message"):
        case "message":
            yield _message(item, where)
        case "function_call":
            function = {name: _text(item, name, where) for name in ("name", "arguments")}
            call = {"id": _text(item, "call_id", where), "type": "function", "function": function}
            yield {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else _parts(output, f"{where}.output")
            yield {"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": content}
        case "reasoning":
            return
        case other:
            said = "message, function_call, function_call_output or reasoning is expected"
            _refuse(f"{where}.type", f"{str(other)[:100]!r} cannot be done here; {said}")


def _message(item: Mapping[str, Any], where: str) -> Message:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        _refuse(f"{where}.role", "user, assistant, system or developer is expected")
    content = item.get("content")
    return {
        "role": "system" if role == "developer" else role,
        "content": content if isinstance(content, str) else _parts(content, f"{where}.content"),
    }


def _parts(parts: object, where: str) -> str | list[dict[str, Any]]:
    """Return parts of a content; one text alone as a string, which every endpoint takes."""
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        _refuse(where, "a string or a list of parts is expected")
    told = [_part(part, f"{where}.{at}") for at, part in enumerate(parts)]
    return str(told[0]["text"]) if len(told) == 1 and told[0]["type"] == "text" else told


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "input_image":
        detail = {} if part.get("detail") is None else {"detail": part["detail"]}
        return {"type": "image_url", "image_url": {"url": _text(part, "image_url", where), **detail}}
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal", where)}
    if kind not in ("input_text", "output_text", "text"):
        said = "input_text, input_image with an image_url, output_text or refusal is expected"
        _refuse(f"{where}.type", f"{str(kind)[:100]!r} cannot be done here; {said}")
    return {"type": "text", "text": _text(part, "text", where)}


def _text(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        _refuse(f"{where}.{name}", "a string is expected")
    return value


def _refuse(where: str, said: str) -> NoReturn:
    raise Problem("bad_field", f"{where}: {said}", param=where)
