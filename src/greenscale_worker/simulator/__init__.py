"""An OpenAI-compatible server that misbehaves on request: for the demo, for tests and for load."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from http import HTTPStatus
from importlib.resources import files
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter, ValidationError

from greenscale_worker.job import CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH
from greenscale_worker.simulator.budget import Budget, BudgetOptions
from greenscale_worker.simulator.completions import MODEL, Question, Reply, calculate, fingerprint, read, reply
from greenscale_worker.simulator.embeddings import Embeddings
from greenscale_worker.simulator.engine import BUSY, Engine, EngineOptions, QueueFullError
from greenscale_worker.simulator.faults import Fate, Faults
from greenscale_worker.simulator.options import SimulatorOptions, explain

__all__ = [
    "CHAT_PATH",
    "BudgetOptions",
    "EngineOptions",
    "Faults",
    "SimulatorOptions",
    "build_app",
    "explain",
    "fingerprint",
    "running",
]

Pace = Callable[[int], Awaitable[None]]

JSON: Final = {"Content-Type": "application/json"}
HTML: Final = {"Content-Type": "text/html"}
EVENTS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
HTML_PAGE: Final = b"<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n"
LARGEST_REQUEST: Final = 32 * 1024 * 1024
PIECES: Final = 20


class Simulator:
    """The handlers of one server, and their counts."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.faults = options.faults
        self.engine = Engine(options.engine) if options.engine is not None else None
        self.budget = Budget(options.budget)
        answers = files("greenscale_worker") / "data" / "demo_answers.json"
        self.answers: dict[str, str] = orjson.loads(answers.read_bytes())
        self.outcomes: Counter[str] = Counter()
        self.jobs: dict[str, int] = {}
        self.in_flight = self.peak_in_flight = self.abandoned = 0
        self.held_until = 0.0
        self.job_held_until: dict[str, float] = {}
        self.too_early = self.too_early_same_job = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions, /v1/completions or /v1/embeddings."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            return await self._chat(request)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        finally:
            self.in_flight -= 1

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        if self._shut_out(request):
            return _unauthorized()
        model = {"id": MODEL, "object": "model", "created": 1733443200, "owned_by": "simulator"}
        return _json({"object": "list", "data": [model]})

    async def health(self, _: web.Request) -> web.Response:
        """GET /health."""
        return _json({"status": "ok"})

    async def stats(self, _: web.Request) -> web.Response:
        """GET /stats: the counts since the start.

        `outcomes` counts each request by its fate as soon as that is known. `abandoned` are requests whose
        client went away before the end. `too_early` are arrivals before a Retry-After given to any client had
        elapsed (those already on their way count too), `too_early_same_job` only those of the job it was
        given to. `budget` is what was taken of the rate limits and refused by them, `engine` what is in the engine.
        """
        names = ("jobs", "in_flight", "peak_in_flight", "abandoned", "too_early", "too_early_same_job")
        counts = {name: getattr(self, name) for name in names}
        if self.engine is not None:
            counts["engine"] = self.engine.stats()
        if budget := self.budget.stats():
            counts["budget"] = budget
        return _json({"requests": self.outcomes.total(), "outcomes": dict(self.outcomes), **counts})

    async def change_faults(self, request: web.Request) -> web.Response:
        """POST /faults: from now on exactly these faults (`{}`: none)."""
        try:
            self.faults = TypeAdapter(Faults).validate_json(await request.read())
        except ValidationError as error:
            return _error(400, "invalid_request_error", explain(error))
        return _json(self.faults)

    async def metrics(self, _: web.Request) -> web.Response:
        """GET /metrics: what the engine says of itself, as vLLM writes it; 404 without an engine."""
        if self.engine is None:
            return _error(404, "invalid_request_error", "there is no engine: --engine")
        return web.Response(body=self.engine.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def change_engine(self, request: web.Request) -> web.Response:
        """POST /engine: from now on these options of the engine, the others as they are."""
        if self.engine is None:
            return _error(404, "invalid_request_error", "there is no engine: --engine")
        try:
            given = orjson.loads(await request.read())
            options = asdict(self.engine.options) | given
            self.engine.options = TypeAdapter(EngineOptions).validate_python(options)
        except ValidationError as error:
            return _error(400, "invalid_request_error", explain(error))
        except (ValueError, TypeError):
            return _error(400, "invalid_request_error", "an object of options of the engine is expected")
        return _json(self.engine.options)

    async def tell_budget(self, _: web.Request, response: web.StreamResponse) -> None:
        """Tell with each answer what is left of the rate limits."""
        response.headers.update(self.budget.headers())

    async def aclose(self) -> None:
        """Stop the engine."""
        if self.engine is not None:
            await self.engine.aclose()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if self._shut_out(request):
            self.outcomes["401"] += 1
            return _unauthorized()
        try:
            question = read(await request.read(), request.path)
        except ValueError as error:
            self.outcomes["400"] += 1
            return _error(400, "invalid_request_error", str(error))
        seen = self._count(question.job)
        if pause := self.budget.admit(question.prompt_tokens, question.max_tokens):
            self.outcomes["rate_limited"] += 1
            return self._hold(question.job, max(0.001, round(pause, 3)))
        faults = self.faults
        fate, variant = faults.draw(self.options.seed, question.job, seen)
        self.outcomes[fate] += 1
        if fate == "429":
            return self._hold(question.job, faults.retry_after)
        if fate == "hang":
            await asyncio.Event().wait()
        answer = question.embeddings or reply(question, self._text_for(question), seen)
        try:
            return await self._answer(request, question, answer, fate, variant)
        except QueueFullError:
            self.outcomes[fate] -= 1
            return self._full()

    async def _answer(
        self, request: web.Request, question: Question, answer: Reply | Embeddings, fate: Fate, variant: str
    ) -> web.StreamResponse:
        """Answer when it is time to. Raises QueueFullError."""
        async with self._worked_on(question, answer) as pace:
            self.budget.settle(question.prompt_tokens + _tokens(answer))
            if (fate == "ok" and question.stream) or fate == "slow" or variant == "amid":
                return await self._write(request, question, answer, fate, pace)
            return _respond(request, question, answer, fate, variant)

    @asynccontextmanager
    async def _worked_on(self, question: Question, answer: Reply | Embeddings) -> AsyncIterator[Pace]:
        """Wait for the first byte. Yields what waits for each further piece of a stream. Raises QueueFullError."""
        if self.engine is None:
            if delay := self._delay(question, answer):
                await asyncio.sleep(delay)
            yield lambda _: asyncio.sleep(self.options.per_token)
            return
        tokens = _tokens(answer)
        with self.engine.sequence(question.prompt_tokens, tokens) as sequence:
            await sequence.reach(1 if question.stream else tokens)
            yield sequence.reach

    def _full(self) -> web.Response:
        """Refuse a request that would have to wait in a full queue, as vLLM does: without Retry-After."""
        status = HTTPStatus(self.engine.options.queue_full if self.engine is not None else 503)
        self.outcomes["queue_full"] += 1
        return _json({"error": {"message": BUSY, "type": status.phrase, "param": None, "code": status}}, status)

    async def _write(
        self, request: web.Request, question: Question, answer: Reply | Embeddings, fate: Fate, pace: Pace
    ) -> web.StreamResponse:
        """Write a body piece by piece: a stream, a slow body, or one that is cut off halfway."""
        response = web.StreamResponse(headers=EVENTS if question.stream else JSON)
        if question.stream and isinstance(answer, Reply):
            pieces = answer.events(usage=question.stream_usage)
        else:
            body, pace = answer.body(), _no_pause
            response.content_length = len(body)
            size = math.ceil(len(body) / PIECES)
            pieces = [body[at : at + size] for at in range(0, len(body), size)]
        pause = self.faults.slow_seconds / (len(pieces) - 1) if fate == "slow" else 0.0
        if fate == "cut":
            pieces = pieces[: len(pieces) // 2]
        try:
            await response.prepare(request)
            for number, piece in enumerate(pieces):
                if number:
                    await pace(number)
                    await asyncio.sleep(pause)
                await response.write(piece)
        except ConnectionError:
            self.abandoned += 1
        if fate == "cut":
            _close(request)
        return response

    def _shut_out(self, request: web.Request) -> bool:
        key = self.options.api_key
        return key is not None and request.headers.get("Authorization") != f"Bearer {key}"

    def _count(self, job: str) -> int:
        """Count a request of this job. Return how many it has sent."""
        if self.held_until:
            now = asyncio.get_running_loop().time()
            self.too_early += now < self.held_until
            self.too_early_same_job += now < self.job_held_until.get(job, 0.0)
        self.jobs[job] = seen = self.jobs.get(job, 0) + 1
        return seen

    def _hold(self, job: str, seconds: float) -> web.Response:
        response = _error(429, "rate_limit_error", "Rate limit reached.", "rate_limit_exceeded")
        if seconds:
            response.headers["Retry-After"] = str(math.ceil(seconds))
            if not seconds.is_integer():
                response.headers["retry-after-ms"] = f"{seconds * 1000:g}"
            until = asyncio.get_running_loop().time() + seconds
            self.job_held_until[job] = until
            self.held_until = max(self.held_until, until)
        return response

    def _text_for(self, question: Question) -> str:
        known = self.answers.get(question.text) or calculate(question.text)
        return known or f"This is a simulated answer to question {question.fingerprint}."

    def _delay(self, question: Question, answer: Reply | Embeddings) -> float:
        """Return the seconds until the first byte: a stream spends its time per token later on."""
        options = self.options
        tokens = 0 if question.stream else _tokens(answer)
        return options.latency or options.ttft + options.per_token * tokens


def _respond(
    request: web.Request, question: Question, answer: Reply | Embeddings, fate: Fate, variant: str
) -> web.Response:
    """Answer in one piece: well, with an error, in a malformed way, or by closing the connection."""
    if fate == "5xx":
        return _error(int(variant), "server_error", "The server had an error processing your request.")
    if fate == "cut":
        _close(request)
    if variant == "html":
        return web.Response(body=HTML_PAGE, headers=HTML)
    choices = variant != "no_choices"
    if question.stream and isinstance(answer, Reply):
        body = b"".join(answer.events(usage=False, choices=choices))
    else:
        body = answer.body(choices=choices)
    if variant == "half":
        body = body[: len(body) // 2]
    return web.Response(body=body, headers=EVENTS if question.stream else JSON)


def _tokens(answer: Reply | Embeddings) -> int:
    return 0 if isinstance(answer, Embeddings) else len(answer.tokens)


async def _no_pause(_: int) -> None:
    pass


def _unauthorized() -> web.Response:
    return _error(401, "invalid_request_error", "Incorrect API key provided.", "invalid_api_key")


def _error(status: int, kind: str, message: str, code: str | None = None) -> web.Response:
    return _json({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers=JSON)


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def build_app(options: SimulatorOptions) -> web.Application:
    """Build the server's application, with all counts at zero."""
    simulator = Simulator(options)
    app = web.Application(client_max_size=LARGEST_REQUEST)
    for path in (CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH):
        app.router.add_post(path, simulator.chat)
    app.router.add_get("/v1/models", simulator.models)
    app.router.add_get("/health", simulator.health)
    app.router.add_get("/stats", simulator.stats)
    app.router.add_post("/faults", simulator.change_faults)
    app.router.add_get("/metrics", simulator.metrics)
    app.router.add_post("/engine", simulator.change_engine)
    app.on_response_prepare.append(simulator.tell_budget)
    app.on_cleanup.append(lambda _: simulator.aclose())
    return app


@asynccontextmanager
async def running(options: SimulatorOptions, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block ends. Yields the root URL (`http://127.0.0.1:40123`). Port 0 takes a free one.

    Raises OSError if it cannot listen on the address.
    """
    # handler_cancellation: a request counts as in flight only while its client waits for the answer
    runner = web.AppRunner(build_app(options), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
