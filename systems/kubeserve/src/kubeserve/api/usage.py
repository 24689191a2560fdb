"""What deployments have used."""

import math
import time
from datetime import UTC, datetime
from typing import Any, Final

from kubeserve.api.bodies import UsageQuery, UsageSpan
from kubeserve.api.call import Call
from kubeserve.api.shapes import TotalsShape, UsageOfShape, UsagePointShape, UsageShape, UsageSumShape
from kubeserve.database.text import refused
from kubeserve.domain import Usage
from kubeserve.usage.store import MOST_STEPS
from kubeserve.usage.wire import MINUTE

HOUR: Final = 60
DAY: Final = 24 * HOUR
STEPS: Final = (1, 5, 15, HOUR, DAY)  # minutes; the first with which few steps are enough
FEW: Final = 200


async def usage(call: Call, query: UsageQuery) -> UsageShape:
    """Tell what a deployment used, step by step: of the last hour by the minute, unless asked otherwise."""
    deployment = await call.plane.deployments.get(call.owner_id, call.part("deployment_id"))
    begin, end = _span(query, HOUR)
    step = query.step // MINUTE if query.step is not None else _usual(begin, end)
    begin, end = begin // step * step, math.ceil(end / step) * step
    if (end - begin) // step > MOST_STEPS:
        raise refused("step", f"at most {MOST_STEPS} steps are accepted; ask for longer ones, or for less time")
    found = await call.plane.usage.steps(call.owner_id, deployment.id, begin, end, step)
    points = [UsagePointShape(at=_moment(each.at), **_numbers(each)) for each in found]
    total = UsageSumShape(**{name: sum(getattr(each, name) for each in points) for name in UsageSumShape.model_fields})
    return UsageShape(
        deployment_id=deployment.id,
        begin=_moment(begin),
        end=_moment(end),
        step=step * MINUTE,
        total=total,
        points=points,
    )


async def usage_of_all(call: Call, query: UsageSpan) -> TotalsShape:
    """Tell what each deployment used, of those that are gone, too: in the last day, unless asked otherwise."""
    begin, end = _span(query, DAY)
    found = await call.plane.usage.totals(call.owner_id, begin, end)
    told = [
        UsageOfShape(deployment_id=deployment_id, deployment=name, **_numbers(each))
        for deployment_id, (name, each) in found.items()
    ]
    return TotalsShape(begin=_moment(begin), end=_moment(end), deployments=told)


def _span(query: UsageSpan, usual: int) -> tuple[int, int]:
    """Return the minutes of which is asked; an end that is left out is that of the minute that runs."""
    end = math.ceil(query.to.timestamp() / MINUTE) if query.to else int(time.time() // MINUTE) + 1
    begin = math.floor(query.from_.timestamp() / MINUTE) if query.from_ else end - usual
    if begin >= end:
        raise refused("from", "a time before `to`, or before now, is accepted")
    return begin, end


def _usual(begin: int, end: int) -> int:
    return next((step for step in STEPS if (end - begin) / step <= FEW), STEPS[-1])


def _numbers(used: Usage) -> dict[str, Any]:
    named = {name: getattr(used, name) for name in ("predictions", "errors", "rows")}
    return named | {"busy_seconds": round(used.busy, 6), "replica_seconds": round(used.replicas, 6)}


def _moment(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * MINUTE, UTC)
