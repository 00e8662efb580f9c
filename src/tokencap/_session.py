"""The life of one guarded call: begin, observe, settle or release. Performs no I/O.

`begin` reserves, `observe` notes what comes back, and one of `settle` and `release` ends it. The
steps that need storage are flows (see `_flow`). Ending is idempotent: the first one wins, so every
way a stream can end may call it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable

from . import _actions
from ._admission import admit
from ._changes import changes_of
from ._entry import Entry, entry_of
from ._flow import Flow, Step
from ._observe import passed
from ._waiting import enter
from .budget import Reservation, Settlement
from .errors import BackendError
from .providers import UNLISTED
from .providers.measure import estimate_text
from .telemetry.record import CallRecord, WouldHave

if TYPE_CHECKING:
    from ._runtime import Runtime
    from .policy import Provider
    from .providers.dialect import Endpoint
    from .telemetry._otel_spans import CallSpan

__all__ = ["CallSession", "Ending"]


class Ending(str, Enum):
    """How a call ended."""

    OK = "ok"
    CUT = "cut"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"


class CallSession:
    """One guarded call, from estimate to settlement.

    Whose call it is, is asked when it is made: a `ConfigurationError` then says that nobody said so.
    `exact` returns the step that counts the prompt with the provider's tokenizer; it is asked for only
    near a threshold.
    """

    def __init__(
        self,
        runtime: Runtime,
        provider: Provider | str,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        exact: Callable[[], Step] | None = None,
    ) -> None:
        self.runtime = runtime = runtime.here()
        who = runtime.caller()
        self.plan = runtime.plans.of(who.identifiers)
        """As it was when the call began, to its settlement."""
        self.tags = who.tags
        self.would_have: tuple[WouldHave, ...] = ()
        self.provider = provider
        self.endpoint = endpoint
        self.body = body
        self.tally = endpoint.dialect.tally()
        self.id = os.urandom(16).hex()
        self.model = str(body.get("model") or "unknown")
        self.model_asked = self.model
        self.estimate = 0
        """Tokens of the prompt, as far as they were worth finding out."""
        self.bound = 0
        """Tokens the prompt cannot pass, as far as is known."""
        self.span: CallSpan | None = None
        """What OpenTelemetry is told of the call, where the SDK does not tell it."""
        self._exact = exact
        self._reservation: Reservation | None = None
        self._held = 0
        self._open: list[int] = []
        self._started = time.monotonic()

    @property
    def open(self) -> bool:
        """True while the call holds something, in the process that made it."""
        return bool(self._open) and self._open[0] == os.getpid()

    def begin(self) -> Flow[dict[str, Any]]:
        """Reserve on every key; return the request fields to change.

        Raises `BudgetExceededError` when the call is refused and `BackendError` when the store failed;
        nothing is held then and nothing may be sent.
        """
        if self.endpoint is UNLISTED:
            # Nothing is known of such a path; it is booked if its reply turns out to report tokens.
            self._open.append(os.getpid())
            return {}
        runtime = self.runtime
        try:
            admission = yield from admit(self)
            self.estimate, self.bound = admission.estimate, admission.bound
            self._reservation = admission.reservation
            self._held = max([hold.amount for hold in admission.reservation.holds], default=0)
            self._open.append(os.getpid())
        except BackendError as error:
            if runtime.on_backend_error == "block" and self.plan.enforces:
                runtime.keeper.disown(self.plan, self.id)
                raise
            # Not disowned: settling under the same id ends a hold that was made after all.
            runtime.warn_once(f"the store failed ({error}); calls are made all the same and booked later")
            self.estimate = self.endpoint.dialect.size(self.body).guess
            self._reservation = self.plan.unreserved(self.id)
            self._open.append(os.getpid())
            return {}
        except BaseException as error:
            if not isinstance(error, Exception):
                # Interrupted, and maybe with a hold that was made.
                runtime.keeper.disown(self.plan, self.id)
            raise
        runtime.keeper.watch(self)
        if runtime.wait:
            enter(self)
        return changes_of(self, admission)

    def count(self, past: int) -> Flow[int | None]:
        """Count the prompt, with `past` tokens of history; None where there is nothing to count with."""
        if self._exact is None:
            return None
        counted: int = yield self._exact()
        return counted + past

    def note_blocked(self, need: int) -> Flow[None]:
        """Note that the call was refused, for which `need` tokens were wanted at least."""
        self.estimate = need
        if self.runtime.observed:
            self.runtime.note(self._record(Ending.BLOCKED, 0))
        if self.span is not None:
            self.span.end(self._record(Ending.BLOCKED, 0))
        if self.runtime.ledger:
            yield from self.runtime.record(self._entry(Ending.BLOCKED, 0))

    def drop(self) -> None:
        """Settle soon, in another thread. Safe in a finalizer."""
        if self.open:
            self.runtime.keeper.drop(self)

    def settle(self, ending: Ending = Ending.OK, final: bool = False) -> Flow[None]:
        """Replace the hold by what was observed. A reply without usage is charged an estimate.

        A reply that is only a ticket leaves the call open until a later reply settles it, or `final`.
        """
        tally = self.tally
        if tally.pending and tally.reply_id and not final:
            self.runtime.pending[tally.reply_id] = self
            return
        if tally.usage is not None:
            # Cumulative, so what was delivered after the report is not in it yet.
            tokens = tally.usage.total + estimate_text(tally.characters)
        else:
            tokens = self.estimate + estimate_text(tally.characters)
        yield from self._end(ending, tokens)

    def release(self, ending: Ending = Ending.FAILED, billed: bool = False) -> Flow[None]:
        """End a call that brought no reply: it costs its prompt estimate if it may have been `billed`."""
        yield from self._end(ending, self.estimate if billed else 0)

    def _end(self, ending: Ending, tokens: int) -> Flow[None]:
        try:
            # One atomic step, so that of two endings in two threads one finds it empty.
            if self._open.pop() != os.getpid():
                return
        except IndexError:
            return
        try:
            yield from self._book(ending, tokens)
        finally:
            if self.span is not None:
                self.span.end(self._record(ending, tokens))

    def _book(self, ending: Ending, tokens: int) -> Flow[None]:
        runtime, tally = self.runtime, self.tally
        runtime.keeper.forget(self)
        runtime.pending.pop(tally.reply_id or "", None)
        if self.endpoint is UNLISTED:
            if tally.usage is None:
                return
            runtime.warn_once(
                f"a reply from {self.provider} reported token usage on a path that is not in the table "
                f"of tokencap; it was counted, but such calls are not blocked beforehand"
            )
            self._reservation = self.plan.unreserved(self.id)
        reservation = self._reservation
        assert reservation is not None
        marks = self.plan.marks if tokens else ()
        entry: Entry | None = None
        try:
            entry = self._entry(ending, tokens) if runtime.ledger else None
            runtime.learned.learn(self, self._held)
            runtime.branch.spend(tokens)
            # What would have been warned is known only once it is settled.
            if not self.plan.observes and runtime.observed:
                runtime.note(self._record(ending, tokens))
            settlement: Settlement = yield runtime.settle(reservation, tokens, marks, entry)
            if self.plan.observes:
                passed(self, settlement.states, tokens)
        except BaseException as error:
            store_failed = isinstance(error, BackendError)
            if store_failed or not isinstance(error, Exception):
                # The reply was paid for, also when what interrupts is the end of an event loop, or a hook
                # that exits: the settlement is kept and tried again.
                runtime.keeper.keep(self.plan, reservation, tokens, marks, entry)
            if not store_failed:
                raise
            return
        finally:
            runtime.queue.wake(self.plan.keys)
            if self.plan.observes and runtime.observed:
                runtime.note(self._record(ending, tokens))
        runtime.observe_states(settlement.states)
        if settlement.passed:
            yield from _actions.fire_passed(runtime, self.plan, settlement)

    def _estimated(self, tokens: int) -> bool:
        return bool(tokens) and (self.tally.usage is None or self.tally.characters > 0)

    def _entry(self, ending: Ending, tokens: int) -> Entry:
        return entry_of(
            self.runtime.label_of(self),
            ending.value,
            tokens,
            self.tally.usage,
            self.estimate,
            self._estimated(tokens),
            time.monotonic() - self._started,
        )

    def _record(self, ending: Ending, tokens: int) -> CallRecord:
        return CallRecord(
            id=self.id,
            provider=str(self.provider),
            endpoint=self.endpoint.path,
            model_asked=self.model_asked,
            model=self.model,
            usage=self.tally.usage,
            tokens=tokens,
            held=self._held,
            estimate=self.estimate,
            estimated=self._estimated(tokens),
            seconds=time.monotonic() - self._started,
            ending=ending.value,
            identifiers=self.plan.identifiers,
            tags=self.tags,
            would_have=self.would_have,
        )
