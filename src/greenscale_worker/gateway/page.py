"""The page `/docs`: the OpenAPI document for people, without a script."""

from html import escape
from typing import Any, Final

from greenscale_worker.gateway.errors import PROBLEMS

STYLE: Final = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid #8886; border-radius: 0.4rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #8884; padding: 0.25rem 1rem 0.25rem 0; text-align: left; vertical-align: top; }
h2 { margin-top: 2.5rem; } h3 { margin-top: 2rem; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600; }
"""
BASE: Final = "http://127.0.0.1:8400"  # in the example, until `at` names the address that was asked
EXAMPLE: Final = f"""\
curl -sS {BASE}/v1/jobs -H 'Prefer: wait=60' \\
  -d '{{"prompt": "What is 2+2?"}}'"""


def page(document: dict[str, Any]) -> str:
    """Return the page."""
    routes = "".join(
        _route(method, path, told) for path, each in document["paths"].items() for method, told in each.items()
    )
    problems = "".join(
        f"<tr id={escape(name)}><td><code>{escape(name)}</code></td><td>{kind.status}</td><td>{escape(kind.title)}</td>"
        for name, kind in PROBLEMS.items()
    )
    objects = "".join(_object(name, told) for name, told in document["components"]["schemas"].items())
    title, example = escape(document["info"]["title"]), escape(EXAMPLE)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{title}</h1><p>{_prose(document['info']['description'])} The same for machines:"
        f" <a href=/openapi.json>openapi.json</a>.<pre>{example}</pre>{routes}"
        f"<h2>Objects</h2>{objects}"
        f"<h2>Problems</h2><table><tr><th>code<th>status<th>meaning{problems}</table></html>\n"
    )


def at(text: str, base: str) -> str:
    """Return the page with the address of this gateway in its example."""
    return text.replace(escape(BASE), escape(base), 1)


def _route(method: str, path: str, told: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code><td>{each['in']}<td>{_prose(each.get('description', ''))}"
        for each in told["parameters"]
        if each["in"] != "path"
    )
    takes = "".join(
        f"<p>Body: {_type(body['schema'])}, {escape(media)}."
        for media, body in told.get("requestBody", {}).get("content", {}).items()
    )
    gives = ", ".join(
        f"{status}: {_type(next(iter(answer['content'].values()))['schema'])}"
        for status, answer in told["responses"].items()
        if status.isdigit() and "content" in answer
    )
    table = f"<table>{rows}</table>" if rows else ""
    head = f"<span class=method>{method.upper()}</span> <code>{escape(path)}</code>"
    return (
        f"<h3 id={escape(told['operationId'])}>{head}</h3>"
        f"<p>{_prose(told['summary'])} {_prose(told.get('description', ''))}{table}{takes}<p>Answers: {gives}."
    )


def _object(name: str, told: dict[str, Any]) -> str:
    required = told.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{' *' if field in required else ''}<td>{_type(schema)}"
        f"<td>{_prose(schema.get('description', ''))}"
        for field, schema in told.get("properties", {}).items()
    )
    about, star = _prose(told.get("description", "")), " * is never missing." if required else ""
    return f"<h3 id={escape(name)}><code>{escape(name)}</code></h3><p>{about}{star}<table>{rows}</table>"


def _type(schema: dict[str, Any]) -> str:
    """Return what a value is: a link to an object, the texts that are accepted, or a type of JSON."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href=#{name}><code>{name}</code></a>"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"<code>{escape(str(each))}</code>" for each in schema.get("enum", [schema.get("const")]))
    of = f" of {_type(schema['items'])}" if schema.get("items") else ""
    return escape(schema.get("type", "any")) + of


def _prose(text: str) -> str:
    """Return text as HTML; what is between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
