"""The simulator with a record: it stores every call with its worker and times, and every answer is unique.

`python -m chaos.endpoint PORT LATENCY`; `GET /executions` returns the calls, `GET /busy` the workers that wait.
`POST /illness` makes it fail for all or for one model (`schedule.ILLNESSES`). Poisoned prompts always fail.
"""

import asyncio
import sys
import time
from collections import Counter
from typing import Any, Final

import orjson
from aiohttp import web

from greenscale_worker.simulator import CHAT_PATH, Simulator, SimulatorOptions

WORKER: Final = "X-Chaos-Worker"
ILL: Final = "ill "
POISONED: Final = "poisoned"
POISON: Final = "poison "  # how a prompt begins, before the name of the poison
CUT: Final = "cut"
POISONS: Final = {
    "flagged": ("403", "Your input was flagged for violence."),
    "forbidden": ("403", "no"),
    "refused": ("400", "no"),
    "deadly": ("500", "no"),
    "cut": (CUT, ""),
}


class Recorder:
    """Records every call: job, worker, fate, the answer it would get, and begin and end (monotonic seconds)."""

    def __init__(self, latency: float) -> None:
        self.simulator = Simulator(SimulatorOptions(latency=latency))
        self.executions: list[dict[str, Any]] = []
        self.busy: Counter[str] = Counter()
        self.illness: dict[str, str] = {}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer as the simulator does, with `<job> #<number of the call>`."""
        body = orjson.loads(await request.read())
        job, prompt, simulator = body["user"], body["messages"][-1]["content"], self.simulator
        seen = simulator.jobs.get(job, 0) + 1
        fate, how, words = self._fate(prompt, body["model"])
        fate = fate or simulator.faults.draw(simulator.options.seed, job, seen)[0]
        simulator.answers[prompt] = answer = f"{job} #{seen}"
        execution = {"job": job, "worker": request.headers.get(WORKER, ""), "fate": fate, "answer": answer}
        execution |= {"began": time.monotonic(), "ended": None}
        self.executions.append(execution)
        self.busy[execution["worker"]] += 1
        try:
            return await (_refuse(request, how, words) if how else simulator.chat(request))
        except asyncio.CancelledError:
            execution["fate"] = fate if "hang" in fate else "abandoned"
            raise
        finally:
            execution["ended"] = time.monotonic()
            self.busy[execution["worker"]] -= 1

    def _fate(self, prompt: str, model: str) -> tuple[str, str, str]:
        """Return the effect of an illness or a poison on a call: its fate, the fault or status, the error text."""
        if self.illness.get("model", model) == model and (how := self.illness.get("how", "")):
            return ILL + how, how, "no"
        if prompt.startswith(POISON):
            return POISONED, *POISONS[prompt.split()[1]]
        return "", "", ""

    async def fall_ill(self, request: web.Request) -> web.Response:
        """POST /illness: `{"how": …}` for all, or, with `model`, for one; `{}`: healthy."""
        self.illness = orjson.loads(await request.read())
        return _json(self.illness)

    async def tell(self, _: web.Request) -> web.Response:
        """GET /executions: all calls."""
        return _json(self.executions)

    async def tell_busy(self, _: web.Request) -> web.Response:
        """GET /busy: the number of calls that each worker waits for."""
        return _json(+self.busy)


async def _refuse(request: web.Request, how: str, words: str) -> web.Response:
    if how == "hang":
        await asyncio.Event().wait()
    if how == CUT and request.transport is not None:
        request.transport.close()
    status = int(how) if how.isdecimal() else 500
    return web.json_response({"error": {"message": words}}, status=status)


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def build(latency: float) -> web.Application:
    """Build the server."""
    recorder = Recorder(latency)
    app = web.Application(client_max_size=32 * 1024 * 1024)
    app.router.add_post(CHAT_PATH, recorder.chat)
    app.router.add_get("/health", recorder.simulator.health)
    app.router.add_post("/faults", recorder.simulator.change_faults)
    app.router.add_post("/illness", recorder.fall_ill)
    app.router.add_get("/executions", recorder.tell)
    app.router.add_get("/busy", recorder.tell_busy)
    return app


if __name__ == "__main__":
    web.run_app(
        build(float(sys.argv[2])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        handler_cancellation=True,
        access_log=None,
        print=None,
    )
