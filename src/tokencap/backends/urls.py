"""A store by its name in one text, as a configuration or a command line has it."""

from __future__ import annotations

import os
import re

from ..errors import ConfigurationError
from .protocol import Backend

__all__ = ["open_url"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+]+):")
_REDIS = ("redis", "rediss", "unix")
_ACCEPTED = (
    "'sqlite:PATH' or the path of a file, 'redis://HOST:PORT/DB' (and every other form that RedisBackend "
    "takes, with '#PREFIX' after it), 'memory:'"
)


def open_url(text: str) -> Backend:
    """Return the store that `text` names. Nothing is opened or made until it is first used.

    Raises `ConfigurationError` when it names none.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"backend is {text!r}; accepted are {_ACCEPTED}")
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else "sqlite"
    rest = text[found.end() :] if found else text
    if scheme == "sqlite":
        from .sqlite import SQLiteBackend

        path = rest[2:] if rest.startswith("//") else rest
        if not path:
            raise ConfigurationError(f"backend is {text!r} and names no file; accepted are {_ACCEPTED}")
        return SQLiteBackend(os.path.expanduser(path))
    if scheme == "memory":
        from .memory import MemoryBackend

        return MemoryBackend()
    if scheme.partition("+")[0] in _REDIS:
        from .redis import RedisBackend

        url, _, prefix = text.partition("#")
        return RedisBackend(url, prefix=prefix or "tokencap")
    # Not the whole text: it may hold a password.
    raise ConfigurationError(f"backend is of the kind {scheme!r}; accepted are {_ACCEPTED}")
