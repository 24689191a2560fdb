"""All routes of the gateway: application, OpenAPI document, page and tests are made from this one table."""

from typing import Final

from greenscale_worker.gateway import (
    batches,
    chat,
    dead,
    documents,
    files,
    history,
    jobs,
    models,
    probes,
    responses,
    stats,
    tenants,
    webhook_failures,
    webhooks,
)
from greenscale_worker.gateway.route import Route

ROUTES: Final[tuple[Route, ...]] = (
    *jobs.ROUTES,
    *chat.ROUTES,
    *responses.ROUTES,
    *models.ROUTES,
    *files.ROUTES,
    *batches.ROUTES,
    *dead.ROUTES,
    *stats.ROUTES,
    *history.ROUTES,
    *tenants.ROUTES,
    *webhooks.ROUTES,
    *webhook_failures.ROUTES,
    *documents.ROUTES,
    *probes.ROUTES,
)
