"""Calls of the sixth provider, wrapped and patched. Prints what came of them, as JSON."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fable

import tokencap
from tokencap import Action, BudgetExceededError, DimensionPolicy, Guard, Policy, Threshold
from tokencap.backends.memory import MemoryBackend

BILL = {"read": 11, "written": 100}
sent: list[dict[str, Any]] = []


class Provider(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        sent.append({"path": self.path, **body})
        told = {"tale": "Once upon a time", "usage": BILL} if self.path == "/v1/tales" else {"tokens": 11}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def refused(client: Any) -> str:
    try:
        client.tell("tale-1", "a fox")
    except BudgetExceededError as error:
        return str(error)
    return ""


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
found: dict[str, Any] = {"bare": fable.Client(url).tell("tale-1", "a fox")}

with Guard(Policy.blocking(1_000), backend=MemoryBackend(), otel_enabled=False) as guard:
    calls: list[Any] = []
    guard.on_call(calls.append)
    client = guard.wrap(fable.Client(url))
    sent.clear()
    found["is its class"] = isinstance(client, fable.Client)
    found["wrapped"] = client.tell("tale-1", "a fox")
    found["counted"] = client.get_status().dimensions["session"].used
    guard.set_limit("session", 111)
    found["refused"] = refused(client)
    found["free"] = client.count("a fox")
    found["sent"] = [request["path"] for request in sent]
    found["records"] = [(call.provider, call.endpoint, call.tokens, call.ending) for call in calls]

thresholds = [Threshold(0.1, [Action("DEGRADE", degrade_to="tale-0")]), Threshold(1.0, [Action("BLOCK")])]
policy = Policy({"session": DimensionPolicy(limit=1_000, thresholds=thresholds, strict=True)})
guard = tokencap.init(policy, backend=MemoryBackend(), otel_enabled=False, quiet=True)
tokencap.patch(providers=["fable"], quiet=True)
client = fable.Client(url)
sent.clear()
client.tell("tale-1", "a fox", max_written=150)
client.tell("tale-1", "a fox")
found["patched"] = [(request["model"], request["max_written"]) for request in sent]
found["patched and counted"] = tokencap.get_status().dimensions["session"].used
guard.set_limit("session", 222)
found["patched and refused"] = refused(client)
found["coverage"] = [
    (row.status.value, row.name) for row in tokencap.coverage().rows if row.provider == "fable"
]
tokencap.teardown()
server.shutdown()
print(json.dumps(found))
