"""All routes of the gateway: application, OpenAPI document, page and tests are made from this one table."""

from typing import Final

from greenscale_worker.gateway import dead, documents, jobs, probes, stats
from greenscale_worker.gateway.route import Route

ROUTES: Final[tuple[Route, ...]] = (
    *jobs.ROUTES,
    *dead.ROUTES,
    *stats.ROUTES,
    *documents.ROUTES,
    *probes.ROUTES,
)
