"""The SDK of a provider that tokencap does not know. Small, and real: it talks HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

__all__ = ["Client"]


class Client:
    """Tells tales, for tokens."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request, and return what was answered."""
        request = urllib.request.Request(
            self.base_url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def tell(self, model: str, about: str, **options: Any) -> Any:
        """Tell a tale."""
        return self.post("/v1/tales", {"model": model, "about": about, **options})

    def count(self, about: str) -> Any:
        """Count the tokens of a prompt, for nothing."""
        return self.post("/v1/tales/count", {"about": about})
