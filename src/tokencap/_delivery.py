"""One delivery of a webhook: posted, signed, and what its failure means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ._version import __version__
from .policy import secret_key

__all__ = ["LONGEST_PAUSE", "TIMEOUT", "Delivery", "Failure", "deliver", "signed", "tls"]

TIMEOUT = 5.0
"""Seconds a receiver may take to accept a connection, and to answer."""
LONGEST_PAUSE = 600.0
_AGAIN = frozenset({408, 425, 429})


@dataclass(order=True)
class Delivery:
    due: float
    """By `time.monotonic`: when it is to be tried again."""
    id: str
    url: str = field(compare=False, repr=False)
    body: bytes = field(compare=False, repr=False)
    secret: str | None = field(compare=False, repr=False)
    attempts: int = field(compare=False, default=0)


class _SameSchemeRedirect(urllib.request.HTTPRedirectHandler):
    """Follow a redirect with the same body, and never to another scheme."""

    max_redirections = 3

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: ARG002
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise urllib.error.HTTPError(
                req.full_url, code, "redirect to another scheme refused", headers, fp
            )
        return urllib.request.Request(newurl, data=req.data, headers=req.headers, method="POST")  # noqa: S310


def _opener(context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameSchemeRedirect(),
    ):
        opener.add_handler(handler)
    return opener


def tls() -> ssl.SSLContext:
    """Return a context as `http.client` makes one for itself, at the same place for whoever replaces it."""
    context = ssl._create_default_https_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Failure(NamedTuple):
    name: str
    """What went wrong, without anything the URL or the receiver said."""
    lasting: bool
    """True when trying again makes no sense."""
    pause: float = 0.0
    """Seconds the receiver asks for."""


def deliver(item: Delivery, context: ssl.SSLContext) -> Failure | None:
    """Post one delivery; return what went wrong."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"tokencap/{__version__}",
        "Webhook-Id": item.id,
    }
    if item.secret is not None:
        headers.update(signed(item.id, item.body, item.secret, int(time.time())))
    try:
        request = urllib.request.Request(item.url, data=item.body, headers=headers, method="POST")  # noqa: S310
        with _opener(context).open(request, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        with error:
            asked = error.headers.get("Retry-After", "") if error.headers else ""
        pause = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() and asked.isascii() else 0.0
        return Failure(f"HTTPError {error.code}", not (error.code in _AGAIN or error.code >= 500), pause)
    except OSError as error:
        return Failure(type(error).__name__, False)
    except Exception as error:
        # A receiver that speaks no HTTP may do so next time; a URL that is none will not.
        return Failure(type(error).__name__, not isinstance(error, http.client.HTTPException))


def signed(id: str, body: bytes, secret: str, timestamp: int) -> dict[str, str]:
    """Return the headers by which a receiver knows a body for ours: Standard Webhooks, version 1."""
    content = b"%s.%d.%s" % (id.encode(), timestamp, body)
    mac = hmac.new(secret_key(secret), content, hashlib.sha256).digest()
    return {"Webhook-Timestamp": str(timestamp), "Webhook-Signature": f"v1,{base64.b64encode(mac).decode()}"}
