"""The items of a response's input, each with an id, as they are listed."""

from collections.abc import Sequence
from typing import Any, Final

from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.response_objects import PREFIX, Object, text_part

IDS: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def items_of(response_id: str, given: str | Sequence[Object]) -> list[Object]:
    """Return the items in the order in which they were sent. One without an id gets one, which is always the same."""
    sent = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [_item(f"{response_id.removeprefix(PREFIX)}_in_{at}", item) for at, item in enumerate(sent)]


def page_of(items: Sequence[Object], *, after: str | None, limit: int) -> dict[str, Any]:
    """Return a page of items. Raises Problem if there is no item `after`."""
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise Problem("not_found", f"after: {after[:200]!r} is no item of this input", param="after")
    start = 0 if after is None else ids.index(after) + 1
    found = items[start : start + limit]
    first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    has_more = start + limit < len(items)
    return {"object": "list", "data": found, "first_id": first, "last_id": last, "has_more": has_more}


def _item(name: str, item: Object) -> Object:
    kind = item.get("type", "message")
    told = {"status": "completed", **item, "type": kind, "id": item.get("id") or f"{IDS[kind]}_{name}"}
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        part = text_part(content) if item["role"] == "assistant" else {"type": "input_text", "text": content}
        told["content"] = [part]
    return told
