"""The account of gateways: what they answered, beside what Redis recorded and what happened to them."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from chaos.facts import Disturbance, Facts, Request
from chaos.schedule import FILES_AWAY, GATEWAY, GATEWAY_ENDED, GATEWAY_KILLED, GATEWAY_STOPPED, STOOD_STILL

SLACK: Final = 0.5  # seconds between a signal and its trace here
AFTER: Final = 2.0  # seconds from the return of Redis, or of its network, until a gateway has connections again
UNAVAILABLE: Final = 503
REDIS: Final = ("Redis", "CLIENT", "DEBUG")
CUTS: Final = {GATEWAY_KILLED, GATEWAY_STOPPED, STOOD_STILL, FILES_AWAY}  # the last one amid the bytes of a file
ANSWERED_BADLY: Final = "answered badly"
TOLD_OTHERWISE: Final = "told otherwise"
ENDS: Final = {"succeeded", "failed", "cancelled"}
REPLAYED: Final = "dead letters replayed"

Breach = Callable[[str, str], None]


def judge_answers(facts: Facts, breach: Breach, count: Counter[str]) -> None:
    """Check that each request was answered clearly, and truly, or that a fault explains why not."""
    for request in facts.requests:
        count["requests"] += 1
        faults = [each for each in facts.disturbances if _may_hit(each, request)]
        if not request.status:
            count["requests cut off"] += 1
            if not any(_cuts_off(each, request) for each in faults):
                breach(ANSWERED_BADLY, f"not at all, {request}")
        elif request.unclear:
            breach(ANSWERED_BADLY, f"{request.unclear}, {request}")
        elif request.status == UNAVAILABLE:
            count["requests put off"] += 1
            if not any(_puts_off(each, request) for each in faults):
                breach(ANSWERED_BADLY, f"put off for no reason, {request}")
        elif request.status not in request.wanted:
            breach(ANSWERED_BADLY, f"{request.wanted} is right, {request}")
        elif "state" in request.said and (wrong := _wrong(request, facts)):
            breach(TOLD_OTHERWISE, f"{wrong}, {request}")
        count["ends told by a gateway"] += request.said.get("state") in ENDS


def _wrong(request: Request, facts: Facts) -> str:
    """Return what the answer says that is not so. A failure that was replayed since is no longer what Redis knows."""
    said, found = request.said, facts.records.get(request.job_id, {})
    error = said.get("error") or {}
    if said["id"] != request.job_id:
        return f"the job is {request.job_id}"
    match said["state"]:
        case "succeeded" if said.get("result") is not None and said["result"] != facts.results.get(request.job_id):
            return f"the result is {facts.results.get(request.job_id)!r}"
        case "failed" if any(each.kind == REPLAYED and each.ended >= request.began for each in facts.disturbances):
            return ""
        case "failed" if error.get("code") != found.get("error_code"):
            return f"the error is {found.get('error_code')}"
    return f"the job {found.get('state')}" if said["state"] in ENDS and said["state"] != found.get("state") else ""


def _may_hit(fault: Disturbance, request: Request) -> bool:
    """Return whether a fault concerned all, or this gateway, and had begun."""
    concerns = fault.worker is None or _place(fault.worker) == _place(request.gateway)
    return concerns and fault.began - SLACK <= request.ended


def _place(gateway: str) -> str:
    """Return a gateway's name without its generation: a client may meet the one before or after."""
    return gateway.partition(".")[0]


def _cuts_off(fault: Disturbance, request: Request) -> bool:
    """Return whether a fault explains that a connection broke. Who is being stopped answers what it has received."""
    if fault.kind == GATEWAY_ENDED:
        return fault.began - SLACK <= request.began <= fault.ended + SLACK
    return fault.kind in CUTS and request.began <= fault.ended + SLACK


def _puts_off(fault: Disturbance, request: Request) -> bool:
    """Return whether a fault explains a 503."""
    if request.said["error"]["code"] == "shutting_down":
        return fault.kind == GATEWAY_ENDED and request.began <= fault.ended + SLACK
    if request.said["error"]["code"] == "files_unavailable":
        return fault.kind in {FILES_AWAY, STOOD_STILL} and request.began <= fault.ended + SLACK
    return fault.kind.startswith((GATEWAY, *REDIS, STOOD_STILL)) and request.began <= fault.ended + AFTER
