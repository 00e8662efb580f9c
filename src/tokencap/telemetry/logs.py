"""What is logged of calls and actions: for machines in `extra`, for people in the message.

The loggers are children of `tokencap`. No handler is installed, and nothing that may be secret is logged:
no prompt, reply, key or URL.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..policy import ActionKind
    from .record import CallRecord

__all__ = ["call_ended", "fired", "wanted"]

calls = logging.getLogger("tokencap.calls")
actions = logging.getLogger("tokencap.actions")

_FIELDS = (
    "provider",
    "endpoint",
    "model",
    "model_asked",
    "tokens",
    "estimate",
    "estimated",
    "seconds",
    "ending",
    "identifiers",
    "tags",
)


def wanted() -> bool:
    """Return whether calls are logged: at the level DEBUG."""
    return calls.isEnabledFor(logging.DEBUG)


def call_ended(record: CallRecord) -> None:
    """Log a call."""
    if wanted():
        calls.debug(
            "%s call of %s: %s, %d tokens",
            record.provider,
            record.model,
            record.ending,
            record.tokens,
            extra={"call_id": record.id, **{name: getattr(record, name) for name in _FIELDS}},
        )


def fired(kind: ActionKind, dimension: str) -> None:
    """Log an action."""
    about = {"action_kind": kind.value, "dimension": dimension}
    actions.info("%s fired for %s", kind.value, dimension, extra=about)
