"""The sockets: a threaded HTTP/1.1 server on the loopback interface, and the journal it keeps."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ._respond import Entry, Reply, Store, respond

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LoopbackProvider"]

# To look, without waiting, whether a client has hung up: not to be had on Windows.
_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT if hasattr(socket, "MSG_DONTWAIT") else 0


class LoopbackProvider:
    """A provider that serves while the `with` block lasts; a port of 0 takes a free one.

    Without the block it serves nothing, and `respond` and the journal work all the same.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._store = Store()
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._next = 0
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("this provider is serving already")
        self._server = _Server(self, self._port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="tokencap-loopback", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, dropping calls in flight. The journal stays."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.stop()
            thread.join()

    @property
    def url(self) -> str:
        if self._server is None:
            raise RuntimeError("this provider is not serving: use it in a with block")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def anthropic_url(self) -> str:
        """The `base_url` of Anthropic clients."""
        return self.url

    @property
    def openai_url(self) -> str:
        """The `base_url` of OpenAI clients."""
        return f"{self.url}/v1"

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that send clients made without arguments here."""
        return {
            "ANTHROPIC_BASE_URL": self.anthropic_url,
            "ANTHROPIC_API_KEY": "loopback",
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_API_KEY": "loopback",
        }

    @property
    def journal(self) -> list[Entry]:
        """Every request so far, in the order they came in: a copy.

        A call is in it before its first byte is sent. `delivered` turns true as its last one is.
        """
        with self._lock:
            return list(self._entries.values())

    @property
    def calls(self) -> int:
        """How many requests came in, those that failed or cost nothing included."""
        with self._lock:
            return len(self._entries)

    @property
    def tokens(self) -> int:
        """All tokens billed."""
        return sum(entry.tokens for entry in self.journal if entry.status == 200)

    def clear(self) -> None:
        """Empty the journal. Calls in flight do not come back into it; kept responses stay."""
        with self._lock:
            self._entries.clear()

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request without a socket, and note it as delivered as `Reply.entry` says."""
        reply = respond(method, path, headers, body, self._store)
        self._note(None, reply.entry)
        return reply

    def _note(self, key: int | None, entry: Entry) -> int:
        with self._lock:
            if key is None:
                key = self._next
                self._next += 1
                self._entries[key] = entry
            elif key in self._entries:
                self._entries[key] = entry
            return key


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, provider: LoopbackProvider, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.provider = provider
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()

    def server_bind(self) -> None:
        # The inherited one looks up the host's name, which may ask a resolver.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def _serve(self) -> None:
        body = self._body()
        if urlsplit(self.path).path == "/journal":
            self._journal()
            return
        provider = self.server.provider
        reply = respond(self.command, self.path, dict(self.headers.items()), body, provider._store)
        key = provider._note(None, reply.after(0))
        chunks = list(reply.chunks)
        sent = 0
        try:
            self._pause(reply.hang)
            if reply.entry.stream:
                self.wfile.write(self._head(reply, ("Transfer-Encoding", "chunked")))
            for sent, chunk in enumerate(chunks):
                self._pause(reply.delay)
                self._expect_listener()
                # Noted before it is on the wire: a client that has read it finds it in the journal.
                last = sent + 1 == len(chunks) and not reply.cut
                provider._note(key, reply.entry if last else reply.after(sent + 1))
                if reply.entry.stream:
                    self.wfile.write(b"%x\r\n%b\r\n%b" % (len(chunk), chunk, b"0\r\n\r\n" if last else b""))
                else:
                    self.wfile.write(self._head(reply, ("Content-Length", str(len(chunk)))) + chunk)
        except OSError:
            provider._note(key, reply.after(sent))
            self.close_connection = True
            return
        if reply.cut:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self._pause(reply.delay)
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _head(self, reply: Reply, *framing: tuple[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {reply.status} {http.client.responses.get(reply.status, '')}"]
        lines += [f"{name}: {value}" for name, value in (*reply.headers.items(), *framing)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _pause(self, seconds: float) -> None:
        if seconds and self.server.stopping.wait(seconds):
            raise ConnectionAbortedError

    def _expect_listener(self) -> None:
        if not _PEEK:
            return
        try:
            gone = not self.connection.recv(1, _PEEK)
        except BlockingIOError:
            return
        if gone:
            raise ConnectionResetError

    def _journal(self) -> None:
        provider = self.server.provider
        if self.command == "DELETE":
            provider.clear()
        content = json.dumps([entry.asdict() for entry in provider.journal]).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.wfile.write(head.encode() + content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the journal is the log."""
