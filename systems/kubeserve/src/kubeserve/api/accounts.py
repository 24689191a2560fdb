"""Accounts, tokens and keys."""

from aiohttp import web

from kubeserve.api.answers import json_answer
from kubeserve.api.bodies import LimitChange, Login, NewKey, Registration
from kubeserve.api.call import Call
from kubeserve.api.credentials import check_same_origin, clear_cookie, set_cookie
from kubeserve.api.shapes import KeyShape, LoginShape, NewKeyShape, RegisteredShape, UserShape


async def register(call: Call, body: Registration) -> RegisteredShape:
    """Make an account. The first one is the admin's."""
    user = await call.plane.accounts.register(body.email, body.password, caller=call.address)
    told = RegisteredShape.model_validate(user)
    return told.model_copy(update={"warning": await call.plane.welcome(user.id)})


async def login(call: Call, body: Login) -> LoginShape | web.Response:
    """Log in: get a token, or with `cookie` a cookie for the page."""
    if body.cookie:
        check_same_origin(call.request)
    user, token = await call.plane.accounts.login(body.email, body.password, caller=call.address)
    seconds = call.plane.settings.token_ttl
    told = LoginShape(token=token, expires_in=seconds, user=UserShape.model_validate(user))
    if not body.cookie:
        return told
    response = json_answer(told.model_copy(update={"token": None}).model_dump(mode="json"))
    set_cookie(response, token, seconds=seconds, secure=call.secure)
    return response


async def logout(call: Call) -> web.Response:
    """Remove the cookie."""
    check_same_origin(call.request)
    response = web.Response(status=204)
    clear_cookie(response, secure=call.secure)
    return response


async def me(call: Call) -> UserShape:
    """Tell who calls."""
    return UserShape.model_validate(call.caller.user)


async def keys(call: Call) -> list[KeyShape]:
    """List one's keys, without their texts."""
    found = await call.plane.accounts.keys(call.owner_id)
    names = await call.plane.deployments.names(call.owner_id)
    return [KeyShape.of(key, names.get(key.deployment_id or "")) for key in found]


async def create_key(call: Call, body: NewKey) -> NewKeyShape:
    """Make a key, for one deployment or for all. Its text is told this once."""
    key, text = await call.plane.accounts.create_key(
        call.owner_id, body.name, body.deployment_id, body.expires_at, body.requests_per_minute
    )
    names = await call.plane.deployments.names(call.owner_id) if key.deployment_id else {}
    return NewKeyShape.made(key, text, names.get(key.deployment_id or ""))


async def limit_key(call: Call, body: LimitChange) -> KeyShape:
    """Limit the predictions a minute that are asked for with a key. It holds from the next one on."""
    key = await call.plane.accounts.limit_key(call.owner_id, call.part("key_id"), body.requests_per_minute)
    call.state.changed()
    names = await call.plane.deployments.names(call.owner_id) if key.deployment_id else {}
    return KeyShape.of(key, names.get(key.deployment_id or ""))


async def revoke_key(call: Call) -> None:
    """Let a key be good for nothing any more."""
    await call.plane.accounts.revoke_key(call.owner_id, call.part("key_id"))
    call.state.changed()
