"""The table of routes."""

from typing import Any, Final

from kubeserve.api import accounts, deployments, manifests, models, operations, predictions, receiving, streams, usage
from kubeserve.api.openapi import openapi
from kubeserve.api.route import Access, Handler, Route

EVENTS: Final = "text/event-stream"
V1: Final = "/api/v1"


def _route(
    method: str, path: str, handler: Handler, access: Access = Access.OWNER, status: int = 200, **more: Any
) -> Route:
    return Route(method=method, path=f"{V1}{path}", handler=handler, access=access, status=status, **more)


PREDICT: Final = _route(
    "POST", "/predict/{deployment_id}", predictions.predict, Access.PREDICTOR, takes="application/json", limited=True
)
MODEL, VERSION, DEPLOYMENT = "/models/{model_id}", "/versions/{version_id}", "/deployments/{deployment_id}"
ROUTES: Final = (
    _route("POST", "/auth/register", accounts.register, Access.ANYONE, 201),
    _route("POST", "/auth/login", accounts.login, Access.ANYONE),
    _route("POST", "/auth/logout", accounts.logout, Access.ANYONE, 204),
    _route("GET", "/me", accounts.me),
    _route("GET", "/keys", accounts.keys),
    _route("POST", "/keys", accounts.create_key, Access.PERSON, 201),
    _route("PUT", "/keys/{key_id}/limit", accounts.limit_key, Access.PERSON),
    _route("DELETE", "/keys/{key_id}", accounts.revoke_key, Access.PERSON, 204),
    _route("GET", "/models", models.models),
    _route("POST", "/models", models.create_model, status=201),
    _route("GET", MODEL, models.model),
    _route("PATCH", MODEL, models.change_model),
    _route("DELETE", MODEL, models.delete_model, status=204),
    _route("GET", f"{MODEL}/events", models.model_events),
    _route("GET", f"{MODEL}/aliases", models.aliases),
    _route("PUT", f"{MODEL}/aliases/{{name}}", models.set_alias),
    _route("DELETE", f"{MODEL}/aliases/{{name}}", models.remove_alias, status=204),
    _route("GET", f"{MODEL}/versions", models.versions),
    _route("POST", f"{MODEL}/versions", models.create_version, status=201),
    _route("GET", VERSION, models.version),
    _route("DELETE", VERSION, models.delete_version, status=204),
    _route("POST", f"{VERSION}/upload", receiving.upload, status=202, takes="multipart/form-data"),
    _route("PUT", f"{VERSION}/files/{{name}}", receiving.put_file, takes="application/octet-stream"),
    _route("HEAD", f"{VERSION}/files/{{name}}", receiving.look_at_file),
    _route("DELETE", f"{VERSION}/files/{{name}}", receiving.remove_file, status=204),
    _route("POST", f"{VERSION}/finish", receiving.finish, status=202),
    _route("POST", f"{VERSION}/retry", models.retry_version, status=202),
    _route("POST", f"{VERSION}/archive", models.archive_version),
    _route("GET", f"{VERSION}/steps", streams.steps, media=EVENTS),
    _route("GET", f"{VERSION}/events", models.version_events),
    _route("GET", "/deployments", deployments.deployments),
    _route("POST", "/deployments", deployments.create_deployment, status=201),
    _route("GET", DEPLOYMENT, deployments.deployment),
    _route("PATCH", DEPLOYMENT, deployments.revise_deployment, status=202),
    _route("DELETE", DEPLOYMENT, deployments.delete_deployment, status=202),
    _route("POST", f"{DEPLOYMENT}/rollback", deployments.rollback_deployment, status=202),
    _route("PUT", f"{DEPLOYMENT}/limit", deployments.limit_deployment),
    _route("POST", f"{DEPLOYMENT}/stop", deployments.stop_deployment, status=202),
    _route("POST", f"{DEPLOYMENT}/start", deployments.start_deployment, status=202),
    _route("GET", f"{DEPLOYMENT}/manifests", manifests.deployment_manifests),
    _route("GET", f"{DEPLOYMENT}/events", deployments.deployment_events),
    _route("GET", f"{DEPLOYMENT}/logs", streams.logs, media=EVENTS),
    _route("GET", f"{DEPLOYMENT}/openapi.json", deployments.deployment_openapi),
    _route("GET", f"{DEPLOYMENT}/usage", usage.usage),
    _route("GET", "/usage", usage.usage_of_all),
    PREDICT,
    _route("GET", "/predictions/{prediction_id}", predictions.prediction, Access.PREDICTOR),
    _route("DELETE", "/predictions/{prediction_id}", predictions.cancel_prediction, Access.PREDICTOR, 204),
    Route(method="GET", path="/healthz", handler=operations.health, access=Access.ANYONE),
    Route(method="GET", path="/metrics", handler=operations.metrics, access=Access.ADMIN, media="text/plain"),
    Route(method="GET", path="/openapi.json", handler=openapi, access=Access.ANYONE),
)
