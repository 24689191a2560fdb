"""A gateway for tests: HTTP as the real one speaks it, over a world that the test sets. `python fake_gateway.py PORT`.

`PUT /fake` sets parts of the world: `stats`, `history`, `jobs` and `dead` (by id), `batches`, `lines` (by path),
`codes`, `key` (what is asked for), and `instead`: by "METHOD /path", an answer to give instead of the real one
({"status", "type", "body", "drip"}; `body` is JSON unless it is a string). `GET /fake` says which requests came, each
with method, path, query and body.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NOW = "2030-01-02T03:04:05.000Z"
STATES = ("waiting", "running", "delayed", "held", "scheduled", "cancelling", "succeeded", "failed", "cancelled")


class World:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.parts: dict[str, Any] = {
            "stats": {}, "history": {}, "jobs": {}, "dead": {}, "events": {}, "batches": {}, "lines": {},
            "key": None, "instead": {},
        }  # fmt: skip
        self.requests: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), {name: values[0] for name, values in parse_qs(address.query).items()}
        said = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_form = self.headers.get("Content-Type", "").startswith("multipart/")
        body = said.decode("latin-1") if is_form else json.loads(said) if said else None
        with self.world.lock:
            if path == "/fake":
                self._fake(body)
                return
            self.world.requests.append({"method": self.command, "path": path, "query": query, "body": body})
            key = self.world.parts["key"]
            if key and self.headers.get("Authorization") != f"Bearer {key}":
                self._problem(401, "a key is expected: Authorization: Bearer gs_…")
                return
            instead = self.world.parts["instead"].get(f"{self.command} {path}")
            instead = instead or self.world.parts["instead"].get("*")
        if instead:
            self._say(instead["status"], instead.get("body", {}), instead.get("type"), instead.get("drip", 0))
            return
        with self.world.lock:
            self._route(path, query, body)

    do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815  the names that http.server looks for

    def _fake(self, body: Any) -> None:
        if self.command == "PUT":
            self.world.parts.update(body)
            self.world.requests.clear()
        self._say(200, {"requests": self.world.requests})

    def _route(self, path: str, query: dict[str, str], body: Any) -> None:  # noqa: C901, PLR0912  a table of routes
        parts, method = self.world.parts, self.command
        match path.removeprefix("/v1/").split("/"), method:
            case ["stats"], "GET":
                self._say(200, parts["stats"])
            case ["stats", "history"], "GET":
                self._say(200, parts["history"])
            case ["jobs"], "POST":
                job = parts["jobs"].setdefault(body["job_id"], {"id": body["job_id"], "state": "waiting"})
                self._say(202, job)
            case ["jobs"], "GET":
                self._list(list(parts["jobs"].values()), query)
            case ["jobs", job_id], "GET" | "DELETE" if job_id in parts["jobs"]:
                job = parts["jobs"][job_id]
                if method == "DELETE" and "finished_at" not in job:
                    job |= {"state": "cancelled", "finished_at": NOW}
                self._say(200, job)
            case ["jobs", job_id, "events"], "GET" if job_id in parts["jobs"]:
                self._stream(parts["events"].get(job_id, []), self.headers.get("Last-Event-ID", ""))
            case ["dead"], "GET":
                self._list(list(parts["dead"].values()), query)
            case ["dead", "codes"], "GET":
                self._codes()
            case ["dead", "replay"], "POST":
                chosen = [each for each in parts["dead"].values() if each["code"] == body["code"]]
                for each in chosen:
                    del parts["dead"][each["id"]]
                self._say(200, {"replayed": len(chosen)})
            case ["dead", letter_id], "GET" if letter_id in parts["dead"]:
                self._say(200, parts["dead"][letter_id])
            case ["dead", letter_id, "replay"], "POST" if letter_id in parts["dead"]:
                self._say(200, parts["dead"].pop(letter_id))
            case ["files"], "POST":
                self._say(200, {"id": "file-1", "object": "file", "purpose": "batch", "status": "processed"})
            case ["batches"], "POST":
                self._say(200, self._batch(f"batch_{len(parts['batches'])}", body))
            case ["batches"], "GET":
                self._list(list(parts["batches"].values()), query)
            case ["batches", batch_id], "GET" if batch_id in parts["batches"]:
                self._say(200, parts["batches"][batch_id])
            case ["batches", batch_id, "cancel"], "POST" if batch_id in parts["batches"]:
                parts["batches"][batch_id]["status"] = "cancelling"
                self._say(200, parts["batches"][batch_id])
            case ["batches", batch_id, "resubmit"], "POST" if batch_id in parts["batches"]:
                self._say(200, self._batch("batch_again", {}))
            case ["batches", batch_id, "output" | "errors"], "GET" if batch_id in parts["batches"]:
                self._say(200, parts["lines"].get(path, ""), "application/jsonl")
            case _:
                self._problem(404, f"there is no {path}")

    def _batch(self, batch_id: str, asked: dict[str, Any]) -> dict[str, Any]:
        counts = {"total": 0, "completed": 0, "failed": 0}
        batch = {"id": batch_id, "object": "batch", "status": "validating", "created_at": 1_893_553_445, **asked}
        self.world.parts["batches"][batch_id] = batch | {"request_counts": counts}
        return self.world.parts["batches"][batch_id]

    def _list(self, rows: list[dict[str, Any]], query: dict[str, str]) -> None:
        for name in ("state", "code"):
            if name in query:
                rows = [row for row in rows if query[name] in (row.get(name), (row.get("error") or {}).get(name))]
        ids = [row["id"] for row in rows]
        begin = ids.index(query["after"]) + 1 if "after" in query else 0
        page = rows[begin : begin + int(query["limit"])]
        more = begin + len(page) < len(rows)
        self._say(200, {"object": "list", "data": page, "has_more": more, "last_id": page[-1]["id"] if page else None})

    def _codes(self) -> None:
        codes = [each["code"] for each in self.world.parts["dead"].values()]
        self._say(200, {"object": "list", "data": [{"code": c, "count": codes.count(c)} for c in sorted(set(codes))]})

    def _stream(self, pieces: list[str | None], after: str) -> None:
        """Send the pieces behind an id (None: a restart), then stay silent, as the real one does between tokens."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, piece in enumerate(pieces):
            if number >= int(after or -1) + 1:
                kind = "restart" if piece is None else "token"
                said = f"event: {kind}\nid: {number}\ndata: {json.dumps({'text': piece})}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(said), said))
        self.wfile.flush()
        time.sleep(0.5)
        self.close_connection = True

    def _problem(self, status: int, detail: str) -> None:
        self._say(status, {"title": "no", "status": status, "detail": detail}, "application/problem+json")

    def _say(self, status: int, body: Any, kind: str | None = None, drip: float = 0) -> None:
        said = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(said)))
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        for begin in range(0, len(said), 1 if drip else len(said) or 1):
            self.wfile.write(said[begin : begin + (1 if drip else len(said))])
            time.sleep(drip)


def main() -> None:
    Handler.world = World()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(server.server_address[1], flush=True)  # noqa: T201  the port, where the system chose it
    server.serve_forever()


if __name__ == "__main__":
    main()
