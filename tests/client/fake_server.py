"""A server with the endpoints of SGLang 0.5.23 for adapters and completions, and no model."""

import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fake_endpoints import MODEL, Endpoints, sglang_unpickler

COMPLETIONS = ("/generate", "/v1/chat/completions")
UNAUTHORIZED = {"error": "Unauthorized"}


class FakeServer:
    """Between `start` and `stop`; `info` is what it says of itself, `faults` what the next requests meet.

    A fault is "reset", "hang", "late", "restart" (all adapters are gone), or (status, body).
    """

    def __init__(self) -> None:
        self.info: dict[str, Any] = {
            "served_model_name": MODEL,
            "model_path": MODEL,
            "tp_size": 1,
            "dp_size": 1,
            "enable_lora": True,
            "max_lora_rank": 8,
            "lora_target_modules": ["q_proj", "v_proj"],
            "max_loras_per_batch": 4,
            "max_loaded_loras": None,
            "enable_deterministic_inference": False,
            "version": "0.5.23",
        }
        self.api_key: str | None = None
        self.admin_api_key: str | None = None
        self.missing_paths: set[str] = set()
        self.adapters: dict[str, float] = {}
        self.known: set[str] = set()  # once loaded: SGLang looks for them in the folder that they came from
        self.others: list[str] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.faults: dict[str, list[Any]] = {}
        self.most_loaded = self.in_flight = self.most_in_flight = self.given_up = 0
        self.delay = 0.0
        self.updates = threading.Lock()
        self.users: Counter[str | None] = Counter()
        self.changed = threading.Condition()
        self.unpickler = sglang_unpickler()
        self.port = 0
        self.connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        handler = type("Handler", (Handler,), {"fake": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.connections):
            with suppress(OSError):  # it may have ended meanwhile
                connection.shutdown(socket.SHUT_RDWR)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for seen, body in self.seen if seen == path]

    def unused(self, adapter: str | None) -> bool:
        """Wait until no request uses an adapter; None: the base."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.users[adapter], 15)

    @contextmanager
    def using(self, adapter: str | None, completes: bool) -> Iterator[None]:
        with self.changed:
            self.users[adapter] += 1
            self.in_flight += completes
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            with self.changed:
                self.users[adapter] -= 1
                self.in_flight -= completes
                self.changed.notify_all()


class Handler(Endpoints, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.fake.connections.add(self.connection)

    def finish(self) -> None:
        self.fake.connections.discard(self.connection)
        super().finish()

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: dict[str, Any]) -> None:
        fake = self.fake
        fake.seen.append((self.path, body))
        admin = self.path.startswith(("/load", "/unload"))
        key = (fake.admin_api_key if admin else None) or fake.api_key
        if key and self.headers["Authorization"] != f"Bearer {key}":
            return self.reply(401, UNAUTHORIZED)
        if self.path in fake.missing_paths:
            return self.reply(404, {"detail": "Not Found"})
        with fake.using(body.get("lora_path"), completes=self.path in COMPLETIONS):
            fault = fake.faults[self.path].pop(0) if fake.faults.get(self.path) else None
            if fault == "hang":
                self.hang()
            if fault == "restart":
                fake.adapters.clear()
                fake.known.clear()
            if fault in ("hang", "restart", "reset"):
                self.close_connection = True
                return None
            time.sleep(fake.delay)
            with fake.updates if admin else nullcontext():
                if fault == "late":
                    fault = time.sleep(0.5)
                status, found = fault or getattr(self, self.path.replace("/", "_"))(body)
        return self.reply(status, found)

    def reply(self, status: int, found: object) -> None:
        data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        with suppress(ConnectionError):  # the client may not have waited
            self.end_headers()
            self.wfile.write(data)

    def hang(self) -> None:
        """Compute until the client has gone, as SGLang does."""
        gone, _, _ = select.select([self.connection], [], [], 5)
        self.fake.given_up += bool(gone)
