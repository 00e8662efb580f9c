"""The payloads in the bytes of a streamed reply, as they come: server-sent events, or JSON line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["EventReader"]


class EventReader:
    """Takes a body in pieces, however they are cut; what is no JSON in it is passed over."""

    def __init__(self) -> None:
        self.ended = False
        """True once the stream has said that nothing follows."""
        self._name = ""
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Any]:
        """Return the payloads that are complete with these bytes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield from self._payload(line)

    def flush(self) -> Iterator[Any]:
        """Return the payload of a last line without an end."""
        rest, self._rest = self._rest, b""
        yield from self._payload(rest)

    def _payload(self, raw: bytes) -> Iterator[Any]:
        line = raw.strip()
        if line.startswith(b"event:"):
            self._name = line[6:].strip().decode("utf-8", "replace")
            return
        if line.startswith(b"data:"):
            line = line[5:].lstrip()
            self.ended = self.ended or line == b"[DONE]"
        elif not line.startswith(b"{"):
            return
        try:
            data = json.loads(line)
        except ValueError:
            return
        # The assistants' events name themselves outside of their data, as the SDK's models do.
        yield {"event": self._name, "data": data} if self._name.startswith("thread.") else data
