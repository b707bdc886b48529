"""A small payment gateway that can be told to fail; without one, nobody sees whether a retry charges a customer twice.

`POST /charges`, `/refunds`, `/shipments` take JSON with at least `order_id` and the header `Idempotency-Key`: the first
request with a key has an effect (201), a repeated one answers the same effect (200). `POST /effects` appends its JSON
without looking for repeats. `GET` on each lists the effects, filtered by query parameters (`?order_id=42`).
`POST /control {"fail": [{"status": 503, "times": 2, "path": "/charges", "order_id": "42"}]}` makes it fail, see
Failure; `GET /control` counts the requests by path, `DELETE /control` mends it (`?order_id=42`: for one order only).
"""

import argparse
import json
import signal
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEYED = {"/charges": "ch", "/refunds": "re", "/shipments": "sh"}
PATHS = (*KEYED, "/effects")
Body = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """What the next fitting requests meet; later failures wait until the earlier ones are used up."""

    status: int | None = None
    """HTTP status to answer; None: only the delay."""
    times: int | None = 1
    """How many requests fail; None: all, until mended."""
    path: str | None = None
    """Only this path, `/charges` for instance."""
    order_id: str | None = None
    """Only this order."""
    retry_after: int | None = None
    """Seconds to answer in `Retry-After`."""
    delay: float = 0.0
    """Seconds to wait before the answer."""
    after_effect: bool = False
    """True: the effect happens, but the caller hears of a failure: what idempotency keys are for."""


class Gateway:
    """The gateway in memory, served from a thread: `with Gateway() as gateway: …gateway.url…`."""

    def __init__(self, port: int = 0, *, talk: bool = False) -> None:
        self.talk = talk
        self._lock = threading.Lock()
        self._failures: list[Failure] = []
        self._effects: dict[str, list[Body]] = {path: [] for path in PATHS}
        self._requests = dict.fromkeys(PATHS, 0)
        self._by_key: dict[tuple[str, str], int] = {}
        self._server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"gateway": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, *failures: Failure) -> None:
        """Make the next fitting requests fail."""
        with self._lock:
            self._failures.extend(failures)

    def mend(self, order_id: str | None = None) -> None:
        """Forget the failures not yet used up, all or those of one order."""
        with self._lock:
            self._failures = [rule for rule in self._failures if order_id is not None and rule.order_id != order_id]

    def effects(self, path: str, **having: str) -> list[Body]:
        """The effects of a path with these fields, oldest first; `requests` counts those with its key, failed too."""
        with self._lock:
            found = [item for item in self._effects[path] if all(str(item.get(k)) == v for k, v in having.items())]
            return [self._counted(path, item) for item in found]

    def control(self) -> Body:
        """The failures still waiting and how many requests came in, by path."""
        with self._lock:
            return {"fail": [asdict(rule) for rule in self._failures], "requests": dict(self._requests)}

    def accept(self, path: str, key: str | None, body: Body) -> tuple[int, Body, int | None]:
        """Handle one POST: status, answer, seconds for Retry-After."""
        if path in KEYED and not (key and body.get("order_id")):
            return 400, {"error": f"POST {path} needs the header Idempotency-Key and order_id in its body"}, None
        with self._lock:
            self._requests[path] += 1
            if key:
                self._by_key[path, key] = self._by_key.get((path, key), 0) + 1
            failure = self._next_failure(path, str(body.get("order_id")))
        if failure:
            time.sleep(failure.delay)
        with self._lock:
            failed = failure is not None and failure.status is not None
            done = (0, {}) if failed and not failure.after_effect else self._effect(path, key, body)
        if failed:
            return failure.status, {"error": f"told to answer {failure.status}"}, failure.retry_after
        return *done, None

    def _effect(self, path: str, key: str | None, body: Body) -> tuple[int, Body]:
        items = self._effects[path]
        if path not in KEYED:
            items.append(body)
            return 201, body
        first = next((item for item in items if item["key"] == key), None)
        if first is None:
            first = {**body, "id": f"{KEYED[path]}_{len(items) + 1}", "key": key}
            items.append(first)
            return 201, self._counted(path, first)
        if any(first.get(name) != value for name, value in body.items()):
            return 409, {"error": f"Idempotency-Key {key} was used with another body"}
        return 200, self._counted(path, first)

    def _counted(self, path: str, item: Body) -> Body:
        return {**item, "requests": self._by_key[path, item["key"]]} if path in KEYED else dict(item)

    def _next_failure(self, path: str, order_id: str) -> Failure | None:
        for index, rule in enumerate(self._failures):
            if rule.path in (None, path) and rule.order_id in (None, order_id):
                if rule.times is not None:
                    self._failures[index : index + 1] = [replace(rule, times=rule.times - 1)] if rule.times > 1 else []
                return rule
        return None

    def __enter__(self) -> "Gateway":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    gateway: Gateway
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        if self._path == "/control":
            self._answer(200, self.gateway.control())
        elif self._path in PATHS:
            self._answer(200, self.gateway.effects(self._path, **self._query))
        else:
            self._unknown()

    def do_DELETE(self) -> None:
        if self._path != "/control":
            return self._unknown()
        self.gateway.mend(self._query.get("order_id"))
        return self._answer(200, self.gateway.control())

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            if not isinstance(body, dict):
                raise ValueError("not an object")
            if self._path == "/control":
                self.gateway.fail(*(Failure(**rule) for rule in body["fail"]))
                return self._answer(200, self.gateway.control())
        except (ValueError, KeyError, TypeError) as error:
            known = ", ".join(field.name for field in fields(Failure))
            return self._answer(400, {"error": f"{error!r}: send a JSON object, to /control {{'fail': [{{{known}}}]}}"})
        if self._path not in PATHS:
            return self._unknown()
        return self._answer(*self.gateway.accept(self._path, self.headers.get("Idempotency-Key"), body))

    @property
    def _path(self) -> str:
        return urlsplit(self.path).path

    @property
    def _query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query))

    def _unknown(self) -> None:
        self._answer(404, {"error": f"no {self._path} here: use {', '.join(PATHS)} or /control"})

    def _answer(self, status: int, body: Body | list[Body], retry_after: int | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        if self.gateway.talk:
            print(format % args, flush=True)


def main() -> None:
    """`python -m <package>.dev.gateway --port 8900`: serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=8900, help="0 takes a free one")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Gateway(parser.parse_args().port, talk=True) as gateway:
        print(f"fake payment gateway on {gateway.url}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
