"""All routes of the gateway: application, OpenAPI document, page and tests are made from this one table."""

from typing import Final

from greenscale_worker.gateway import chat, dead, documents, history, jobs, models, probes, stats
from greenscale_worker.gateway.route import Route

ROUTES: Final[tuple[Route, ...]] = (
    *jobs.ROUTES,
    *chat.ROUTES,
    *models.ROUTES,
    *dead.ROUTES,
    *stats.ROUTES,
    *history.ROUTES,
    *documents.ROUTES,
    *probes.ROUTES,
)
