"""Who calls: by `Authorization: Bearer`, or from the page by a cookie that other sites cannot use."""

from typing import Final

from aiohttp import web

from kubeserve.api.call import Call
from kubeserve.api.route import Access, Route
from kubeserve.domain import COOKIE, Principal
from kubeserve.errors import ForbiddenError, UnauthenticatedError

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
NOBODY: Final = "log in: `Authorization: Bearer` with a token or an API key is expected"
ADMIN: Final = "admin"
BY_COOKIE: Final = web.RequestKey("by_cookie", bool)  # whether that says who calls


async def admit(call: Call, route: Route) -> Principal | None:
    """Tell who calls, if that one may call the route. Raises UnauthenticatedError, ForbiddenError."""
    if route.access is Access.ANYONE:
        return None
    principal = await call.state.principal(_credential(call.request))
    if principal.key_id is not None:
        _check_key(principal, route, call.request)
    if route.access is Access.ADMIN and principal.user.role != ADMIN:
        raise ForbiddenError("this is for the admin: the first who registered here")
    return principal


def set_cookie(response: web.Response, token: str, *, seconds: float, secure: bool) -> None:
    """Let the page's browser keep the token, out of reach of scripts."""
    response.set_cookie(COOKIE, token, max_age=int(seconds), path="/", httponly=True, samesite="Strict", secure=secure)


def clear_cookie(response: web.Response, *, secure: bool) -> None:
    """Let it forget the token."""
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=secure)


def check_same_origin(request: web.Request) -> None:
    """Raise ForbiddenError if a browser says that another site has sent this."""
    headers = request.headers
    fetched, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    own = origin is None or origin.partition("://")[2].lower() == headers.get("Host", "").lower()
    if not own or fetched not in {None, "same-origin", "none"}:
        raise ForbiddenError("another site has sent this: only the page itself may", code="cross_site")


def _credential(request: web.Request) -> str:
    if header := request.headers.get("Authorization"):
        scheme, _, credential = header.partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise UnauthenticatedError(NOBODY)
        return credential.strip()
    cookie = request.cookies.get(COOKIE)
    if not cookie:
        raise UnauthenticatedError(NOBODY)
    if request.method not in SAFE:
        if not {"Sec-Fetch-Site", "Origin"} & request.headers.keys():
            raise ForbiddenError("with a cookie, a browser says where a call comes from; others send a token")
        check_same_origin(request)
    request[BY_COOKIE] = True
    return cookie


def _check_key(principal: Principal, route: Route, request: web.Request) -> None:
    if route.access is Access.PERSON:
        raise ForbiddenError("a key cannot do this: log in")
    if principal.deployment_id is None:
        return
    about = request.match_info.get("deployment_id") or request.match_info.get("prediction_id", "").partition(".")[0]
    if route.access is not Access.PREDICTOR or about != principal.deployment_id:
        raise ForbiddenError("this key is for the predictions of one deployment alone")
