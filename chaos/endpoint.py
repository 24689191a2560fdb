"""The simulator, with a memory: every call is kept with its worker and its times, and no two answers are the same.

`python -m chaos.endpoint PORT LATENCY`; `GET /executions` gives what it has kept, `GET /busy` who waits for answers.
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


class Recorder:
    """Every call: job, worker, fate, the answer it would get, and when it began and ended (monotonic seconds)."""

    def __init__(self, latency: float) -> None:
        self.simulator = Simulator(SimulatorOptions(latency=latency))
        self.executions: list[dict[str, Any]] = []
        self.busy: Counter[str] = Counter()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer as the simulator does, with `<job> #<number of the call>`."""
        body = orjson.loads(await request.read())
        job, prompt, simulator = body["user"], body["messages"][-1]["content"], self.simulator
        seen = simulator.jobs.get(job, 0) + 1
        fate, _ = simulator.faults.draw(simulator.options.seed, job, seen)
        simulator.answers[prompt] = answer = f"{job} #{seen}"
        execution = {"job": job, "worker": request.headers.get(WORKER, ""), "fate": fate, "answer": answer}
        execution |= {"began": time.monotonic(), "ended": None}
        self.executions.append(execution)
        self.busy[execution["worker"]] += 1
        try:
            return await simulator.chat(request)
        except asyncio.CancelledError:
            execution["fate"] = fate if fate == "hang" else "abandoned"
            raise
        finally:
            execution["ended"] = time.monotonic()
            self.busy[execution["worker"]] -= 1

    async def tell(self, _: web.Request) -> web.Response:
        """GET /executions."""
        return _json(self.executions)

    async def tell_busy(self, _: web.Request) -> web.Response:
        """GET /busy: the number of calls that each worker waits for."""
        return _json(+self.busy)


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def build(latency: float) -> web.Application:
    """Build the server."""
    recorder = Recorder(latency)
    app = web.Application(client_max_size=32 * 1024 * 1024)
    app.router.add_post(CHAT_PATH, recorder.chat)
    app.router.add_get("/health", recorder.simulator.health)
    app.router.add_post("/faults", recorder.simulator.change_faults)
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
