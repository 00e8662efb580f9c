"""How fields are read from what an SDK hands over: its models, or plain dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["as_count", "count_of", "fields_of", "get", "stated", "table_of"]


def get(payload: Any, name: str) -> Any:
    """Return a field of a model or of a dict; None when it has none."""
    if isinstance(payload, dict):
        return payload.get(name)
    try:
        # Straight to the fields: this runs for every chunk, and pydantic is slow to say that one is missing.
        fields = payload.__dict__
        if name in fields:
            return fields[name]
        extra = payload.__pydantic_extra__
    except AttributeError:
        return getattr(payload, name, None)
    return extra.get(name) if extra else None


def fields_of(payload: Any) -> dict[str, Any]:
    """Return the declared fields of a model, or a dict. Quicker than `get`, blind to extra fields."""
    if payload.__class__ is dict:
        found: dict[str, Any] = payload
        return found
    return getattr(payload, "__dict__", None) or {}


class _Attributes:
    """What `table_of` returns for an object that is no model of pydantic's and no dict."""

    def __init__(self, payload: Any) -> None:
        self._payload = payload

    def get(self, name: str) -> Any:
        return getattr(self._payload, name, None)


def table_of(payload: Any) -> dict[str, Any] | _Attributes:
    """Return something to `get` all fields of a model or a dict from: quicker than `get` for many."""
    if isinstance(payload, dict):
        return payload
    try:
        fields: dict[str, Any] = payload.__dict__
        extra = payload.__pydantic_extra__
    except AttributeError:
        return _Attributes(payload)
    return {**extra, **fields} if extra else fields


def count_of(payload: Any, name: str) -> int:
    """Return a field that counts tokens; 0 for whatever is no count (None, a text, a negative)."""
    return as_count(get(payload, name))


def as_count(value: Any) -> int:
    """Return a number of tokens; 0 for whatever is none (None, a text, a negative)."""
    if value.__class__ is int:
        return max(value, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        return 0
    return int(value) if value < 2**53 else 0


def stated(body: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these request fields that holds a whole number above 0."""
    for name in names:
        value = body.get(name)
        if value and isinstance(value, int) and value > 0 and value is not True:
            return value
    return None
