"""The spans of OpenTelemetry, for calls of SDKs that make none. Imported only where its API is installed."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as api
from opentelemetry.trace import SpanKind, StatusCode

from .._version import __version__
from .names import operation_of, provider_name

if TYPE_CHECKING:
    from .._session import CallSession
    from ..policy import ActionKind
    from .record import CallRecord

__all__ = ["CallSpan", "Spans"]

_NO_ERROR = frozenset({"ok", "cut"})


class Spans:
    """Makes the spans."""

    def __init__(self, provider: Any) -> None:
        self._tracer = api.get_tracer("tokencap", __version__, tracer_provider=provider)

    def begin(self, session: CallSession) -> CallSpan | None:
        """Return the span of a call that begins now; None while nobody collects any."""
        # While the process has no provider, the tracer of the API hands over to one that does nothing.
        if isinstance(getattr(self._tracer, "_tracer", self._tracer), api.NoOpTracer):
            return None
        operation = operation_of(session.endpoint.path)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider_name(str(session.provider)),
            "gen_ai.request.model": session.model,
        }
        span = self._tracer.start_span(
            f"{operation} {session.model}", kind=SpanKind.CLIENT, attributes=attributes
        )
        return CallSpan(span, operation, session)

    def fired(self, kind: ActionKind, dimension: str) -> None:
        """Note an action on the span that is current: the call's, or whatever the call was made in."""
        span = api.get_current_span()
        if span.is_recording():
            span.add_event("tokencap.action", {"action_kind": kind.value, "dimension": dimension})


class CallSpan:
    """One span, current while the request is made, and ended when the call is settled."""

    def __init__(self, span: api.Span, operation: str, session: CallSession) -> None:
        self._span = span
        self._operation = operation
        self._session = session
        self._current: Any = None

    def __enter__(self) -> None:
        self._current = api.use_span(self._span, record_exception=False, set_status_on_exception=False)
        self._current.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current.__exit__(None, None, None)
        if kind is not None and not self._session.open and self._span.is_recording():
            # Nobody settles a call that was never admitted.
            self._fail(kind.__name__)
            self._span.end()

    def end(self, record: CallRecord) -> None:
        """Say how the call ended."""
        span = self._span
        if not span.is_recording():
            return
        if record.model != record.model_asked:
            span.set_attribute("gen_ai.request.model", record.model)
            span.set_attribute("tokencap.model_asked", record.model_asked)
            span.update_name(f"{self._operation} {record.model}")
        if record.usage is not None:
            span.set_attribute("gen_ai.usage.input_tokens", record.usage.input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", record.usage.output_tokens)
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", record.usage.cache_read_tokens)
            span.set_attribute("gen_ai.usage.cache_creation.input_tokens", record.usage.cache_write_tokens)
        span.set_attribute("tokencap.tokens", record.tokens)
        span.set_attribute("tokencap.ending", record.ending)
        if record.ending == "blocked":
            self._fail("BudgetExceededError")
        elif record.ending not in _NO_ERROR:
            raised = sys.exc_info()[0]
            self._fail("_OTHER" if raised is None else raised.__name__)
        span.end()

    def _fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)
