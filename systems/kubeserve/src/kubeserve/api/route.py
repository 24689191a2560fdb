"""One route: how it is called, who may call it, and with what. What it takes and gives is told by its handler."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from types import UnionType
from typing import Any, get_args, get_type_hints

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

Handler = Callable[..., Awaitable[Any]]


class Access(StrEnum):
    """Who may call a route: `person` by a token alone, `predictor` also by a key of that deployment."""

    ANYONE = "anyone"
    PREDICTOR = "predictor"
    OWNER = "owner"
    PERSON = "person"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True)
class Route:
    """A method and a path with its handler.

    The handler is given the call, and what it names beside that: `body`, a model of the JSON in the request, and
    `query`, one of the parameters. It returns what its annotation says, with `status`; or a response of its own, whose
    content is of the type `media`. `takes` is the type of a content that is not JSON. `limited`: limits of keys and
    deployments count its requests.
    """

    method: str
    path: str
    handler: Handler
    access: Access = Access.OWNER
    status: int = 200
    media: str = "application/json"
    takes: str = ""
    limited: bool = False

    @property
    def name(self) -> str:
        """Its name in the log and in the metrics."""
        return f"{self.method} {self.path}"

    @property
    def summary(self) -> str:
        """One line about it."""
        return (inspect.getdoc(self.handler) or "").partition("\n")[0]

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self.handler)

    @property
    def body(self) -> type[BaseModel] | None:
        """What the request's JSON may say."""
        return self._hints.get("body")

    @property
    def query(self) -> type[BaseModel] | None:
        """What the query may say."""
        return self._hints.get("query")

    @cached_property
    def answer(self) -> TypeAdapter[Any] | None:
        """What the answer says; None: nothing, or what no model describes."""
        told = self._hints["return"]
        if isinstance(told, UnionType):  # with a response of its own, for another status
            (told,) = (each for each in get_args(told) if not issubclass(each, web.StreamResponse))
        inner = (told, *get_args(told))
        described = any(isinstance(each, type) and issubclass(each, BaseModel) for each in inner)
        return TypeAdapter(told) if described else None
