"""What the calls of one Guard share: plans, store, keeper, hooks, and what was learned of models."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ._entry import Entry, Label
from ._flow import Flow, Step
from ._keeper import Keeper
from ._learned import Learned
from ._scope import Caller, caller, owners
from ._tree import Branch
from ._waiting import Queue
from ._webhooks import Webhooks
from .backends.protocol import AsyncLedgerBackend, LedgerBackend
from .budget import Asked, BudgetState, Hold, Mark, Reservation, Settlement
from .errors import BackendError, ConfigurationError
from .policy import ActionKind
from .status import StatusResponse, build_status
from .telemetry import logs
from .telemetry.record import CallHook, CallRecord

if TYPE_CHECKING:
    from ._degrade import Degrade
    from ._plan import Plan
    from ._plans import Plans
    from ._session import CallSession
    from .backends.protocol import Backend
    from .telemetry.otel import Observer

__all__ = ["Runtime"]

log = logging.getLogger("tokencap.calls")

_REMEMBERED = 10_000


class Runtime:
    """The working parts of a Guard. Its verbs are flows over the store, in both forms."""

    def __init__(
        self,
        plans: Plans,
        backend: Backend,
        observer: Observer | None,
        *,
        lease: float = 60.0,
        wait: float = 0.0,
        on_backend_error: str = "block",
        ledger: bool = True,
    ) -> None:
        self.plans = plans
        self.backend = backend
        self.lease = lease
        """Seconds after which the hold of a dead process expires."""
        self.wait = wait
        """Seconds a call waits for the holds of others."""
        self.on_backend_error = on_backend_error
        self.queue = Queue()
        self.async_backend = backend.as_async()
        self.ledger = (
            ledger
            and isinstance(backend, LedgerBackend)
            and isinstance(self.async_backend, AsyncLedgerBackend)
        )
        """True when the store is given a row for every call."""
        self.keeper = Keeper(self)
        self.webhooks = Webhooks()
        self.hooks: list[CallHook] = []
        self.tags: Mapping[str, str] = {}
        """Tags of the scopes a child was made in."""
        self.parent: Runtime | None = None
        self.branch = Branch()
        self.closed = False
        self.learned = Learned()
        self.pending: dict[str, CallSession] = {}
        """Calls whose reply was a ticket, by the provider's id of it."""
        self.observer = observer
        self._warned: set[str] = set()
        self._labels: dict[tuple[object, ...], str] = {}

    def sprout(self, name: str, plans: Plans, tags: Mapping[str, str]) -> Runtime:
        """Return the runtime of a child: with the store, the keeper and all that is known in common."""
        child = copy.copy(self)
        child.plans, child.tags, child.parent = plans, tags, self
        child.hooks, child.branch = [], Branch(self.branch, name)
        return child

    def lineage(self) -> Iterator[Runtime]:
        """Iterate this runtime and those around it."""
        runtime: Runtime | None = self
        while runtime is not None:
            yield runtime
            runtime = runtime.parent

    def here(self) -> Runtime:
        """Return the runtime that makes a call asked of this one: of a child, inside its scope."""
        for owner in owners():
            if owner is not self and isinstance(owner, Runtime) and self in owner.lineage():
                if owner.closed:
                    raise ConfigurationError("this scope is of a child that was closed; leave it first")
                return owner
        return self

    def ticket(self, names: Sequence[str]) -> CallSession | None:
        """Return the call that is still open and whose reply was a ticket of one of these names."""
        found = next((self.pending[name] for name in names if name in self.pending), None)
        if found is not None:
            return found
        # Its own stream may have been left, and be neither closed nor collected.
        calls = [call for call in list(self.keeper.live.values()) if call.tally.pending]
        return next((call for call in calls if call.tally.reply_id in names), None)

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, about: str = "") -> Step:
        """Return the step that is `Backend.reserve`; it is answered with a `Grant`."""
        args = (id, holds, charge, self.lease, about) if about else (id, holds, charge, self.lease)
        return Step(self.backend.reserve, self.async_backend.reserve, args)

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark], entry: Entry | None = None
    ) -> Step:
        """Return the step that is `Backend.settle`; it is answered with a `Settlement`."""
        args = (reservation, tokens, marks) if entry is None else (reservation, tokens, marks, entry)
        return Step(self.backend.settle, self.async_backend.settle, args)

    def settle_kept(
        self,
        plan: Plan,
        reservation: Reservation,
        tokens: int,
        marks: Sequence[Mark],
        entry: Entry | None,
    ) -> Flow[None]:
        """Settle what could not be settled when its call ended, and fire what is due."""
        from ._actions import fire_passed

        settlement: Settlement = yield self.settle(reservation, tokens, marks, entry)
        yield from fire_passed(self, plan, settlement)

    def record(self, entry: Entry) -> Flow[None]:
        """Write the row of a call that held nothing. A store that fails does not hide why it was refused."""
        backend, async_backend = self.backend, self.async_backend
        assert isinstance(backend, LedgerBackend)
        assert isinstance(async_backend, AsyncLedgerBackend)
        try:
            yield Step(backend.record, async_backend.record, ((entry,),))
        except BackendError as error:
            log.warning("a refused call is missing in the ledger: %s", error)

    def label_of(self, session: CallSession) -> str:
        """Return the label of a call's row; empty when there is no ledger."""
        if not self.ledger:
            return ""
        provider, endpoint = str(session.provider), session.endpoint.path
        known = (provider, endpoint, session.model_asked, session.model)
        plan, tags = session.plan, session.tags
        about = (known, plan.keys, tuple(tags.items()))
        text = self._labels.get(about)
        if text is None:
            if len(self._labels) >= _REMEMBERED:
                self._labels.clear()
            text = self._labels[about] = Label(*known, plan.identifiers, tags).text()
        return text

    def pass_marks(self, marks: Sequence[Mark]) -> Flow[tuple[Mark, ...]]:
        """`Backend.pass_marks`."""
        passed: tuple[Mark, ...] = yield Step(
            self.backend.pass_marks, self.async_backend.pass_marks, (marks,)
        )
        return passed

    def settle_due(self) -> Flow[None]:
        """Settle what is still to be settled of calls that have ended."""
        if self.keeper.work:
            yield from self.keeper.drain()

    def caller(self) -> Caller:
        """Return who makes a call of this Guard, here and now."""
        return caller(self.lineage(), self.tags)

    def plan_here(self) -> Plan:
        """Return what is known of the plan of a call made here and now."""
        return self.plans.of(self.caller().identifiers, known_only=True)

    def status(self, plan: Plan, states: Sequence[BudgetState]) -> StatusResponse:
        """Return the status of a plan whose budgets are in these states."""
        return build_status(plan, states, self.branch.totals())

    def states(self, plan: Plan) -> Flow[tuple[BudgetState, ...]]:
        """`Backend.get_states` of every budget of a plan, after whatever is still to be settled."""
        yield from self.settle_due()
        keys = [Asked(budget.key, budget.limit, budget.period) for budget in plan.budgets]
        states: tuple[BudgetState, ...] = yield Step(
            self.backend.get_states, self.async_backend.get_states, (keys,)
        )
        self.keeper.note_expired(states)
        return states

    @property
    def observed(self) -> bool:
        """True when somebody wants the records of calls."""
        collected = self.observer is not None and self.observer.collected
        return collected or logs.wanted() or any(runtime.hooks for runtime in self.lineage())

    def note(self, record: CallRecord) -> None:
        """Log the record of an ended call and hand it to every hook; what a hook raises is logged."""
        logs.call_ended(record)
        for hook in [hook for runtime in self.lineage() for hook in runtime.hooks]:
            try:
                hook(record)
            except Exception:
                log.exception("a call hook failed; the call is not affected")
        if self.observer is not None:
            self.observer.call_ended(record)

    def observe_states(self, states: Sequence[BudgetState]) -> None:
        """Note the states a settlement left."""
        self.keeper.note_expired(states)
        if self.observer is not None:
            self.observer.states(states)

    def note_fired(self, kind: ActionKind, dimension: str) -> None:
        """Note that an action was carried out."""
        logs.fired(kind, dimension)
        if self.observer is not None:
            self.observer.fired(kind, dimension)

    def note_degraded(self, due: Degrade) -> None:
        """Note that a call is sent to a cheaper model."""
        log.debug("degraded to %s", due.model, extra={"model": due.model})
        self.note_fired(ActionKind.DEGRADE, due.budget.key.dimension)

    def warn_once(self, message: str) -> None:
        """Log a warning the first time it is said."""
        if message not in self._warned and len(self._warned) < _REMEMBERED:
            self._warned.add(message)
            log.warning(message)
