"""What goes on beside the calls: leases renewed, dropped streams settled, failed settlements tried again."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ._flow import Flow, run
from ._fork import ForkAware, survive_forks
from .budget import BudgetKey, BudgetState, Mark, Reservation
from .errors import BackendError

if TYPE_CHECKING:
    from ._entry import Entry
    from ._plan import Plan
    from ._runtime import Runtime
    from ._session import CallSession

__all__ = ["Keeper"]

log = logging.getLogger("tokencap.keeper")

_RETRY_SECONDS = 1.0
_DISOWNED = 10_000
_JOIN_SECONDS = 5.0
_GRACE_SECONDS = 0.05
"""How long a dropped stream is left for the thread that dropped it, whose next step settles it in order."""


class Keeper(ForkAware):
    """The open calls of one Guard in this process, and one daemon thread that looks after them.

    Finalizers hand their sessions over with `drop`, which takes no lock: the garbage collector may run
    them in a thread that holds any lock, ours included.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._expired: dict[BudgetKey, int] = {}
        self._begin()
        survive_forks(self)

    def _begin(self) -> None:
        self.live: dict[str, CallSession] = {}
        self._dropped: deque[CallSession] = deque()
        self._kept: deque[tuple[Plan, Reservation, int, tuple[Mark, ...], Entry | None]] = deque()
        self._ever_kept = 0
        self._disowned: deque[tuple[float, Plan, str]] = deque(maxlen=_DISOWNED)
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._drainer: threading.Thread | None = None
        self._starting = threading.RLock()

    def after_fork_in_child(self) -> None:
        """See `_fork`: the parent's calls are the parent's to end, and the thread stayed there."""
        self._begin()

    def watch(self, session: CallSession) -> None:
        """Renew this call's lease until it is forgotten."""
        self.live[session.id] = session
        if self._thread is None:
            self._start()

    def forget(self, session: CallSession) -> None:
        """Stop: the call has ended."""
        self.live.pop(session.id, None)

    def note_expired(self, states: Sequence[BudgetState]) -> None:
        """Say that calls were charged because their process died: nobody else is left to."""
        for state in states:
            known = self._expired.get(state.key, 0)
            if state.expired != known:
                self._expired[state.key] = state.expired
            if state.expired > known:
                log.warning(
                    "%d tokens were charged to %s=%s for calls whose process died; %d in all",
                    state.expired - known,
                    state.key.dimension,
                    ascii(state.key.identifier[:64]),
                    state.expired,
                    extra={
                        "dimension": state.key.dimension,
                        "identifier": state.key.identifier,
                        "tokens": state.expired - known,
                    },
                )

    def drop(self, session: CallSession) -> None:
        """Settle a call whose stream was dropped, soon and elsewhere. Safe in a finalizer."""
        self._dropped.append(session)
        self._bell.put(True)

    def keep(
        self,
        plan: Plan,
        reservation: Reservation,
        tokens: int,
        marks: tuple[Mark, ...],
        entry: Entry | None = None,
    ) -> None:
        """Try a settlement again until the store takes it."""
        log.error(
            "a settlement of %d tokens failed and is kept; it is tried again every second",
            tokens,
            extra={"tokens": tokens, "call_id": reservation.id},
        )
        self._ever_kept += 1
        self._kept.append((plan, reservation, tokens, marks, entry))
        if self._thread is None:
            self._start()
        self._bell.put(True)

    def disown(self, plan: Plan, id: str) -> None:
        """Release a reservation that may have been made though the store's answer was an error."""
        self._disowned.append((time.monotonic() + self._runtime.lease, plan, id))

    @property
    def kept(self) -> int:
        """How many settlements wait for the store."""
        return len(self._kept)

    @property
    def work(self) -> bool:
        """True when `drain` has something to do."""
        return bool(self._dropped or self._kept or self._disowned)

    def drain(self) -> Flow[None]:
        """Settle what was dropped or kept. Raises `BackendError` while the store fails."""
        from ._session import Ending

        while self._dropped:
            try:
                session = self._dropped.popleft()
            except IndexError:
                break
            yield from session.settle(Ending.CUT)
        while self._disowned:
            try:
                until, plan, lost = self._disowned.popleft()
            except IndexError:
                break
            if until < time.monotonic():
                continue  # it has expired by itself
            try:
                yield self._runtime.settle(plan.unreserved(lost), 0, ())
            except BaseException:
                self._disowned.appendleft((until, plan, lost))
                raise
        for _ in range(len(self._kept)):
            try:
                kept = self._kept.popleft()
            except IndexError:
                break
            try:
                yield from self._runtime.settle_kept(*kept)
            except BaseException:
                self._kept.appendleft(kept)
                raise

    def close_calls(self, runtime: Runtime) -> None:
        """End the calls of a child that are still open, at what is known of them."""
        from ._session import Ending

        for session in list(self.live.values()):
            if runtime in session.runtime.lineage():
                run(session.settle(Ending.CUT, final=True))

    def close(self) -> None:
        """End every call still open at what is known of it, and the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._bell.put(False)
            _join(thread)
        # Only now: the one may have begun the other meanwhile.
        if self._drainer is not None:
            _join(self._drainer)
        from ._session import Ending

        kept_before = self._ever_kept
        for session in list(self.live.values()):
            ending = session.settle(Ending.CUT, final=True)
            # A store that has just failed is not waited for again and again.
            if self._ever_kept > kept_before:
                _fail(ending)
            else:
                run(ending)
        try:
            run(self.drain())
        except BackendError:
            log.exception(
                "%d settlements could not be stored and are lost with this process",
                len(self._kept),
                extra={"settlements": len(self._kept)},
            )

    def _renew(self) -> None:
        if not self.live:
            return
        for lost in self._runtime.backend.renew(list(self.live), self._runtime.lease):
            if lost in self.live:  # else it was settled meanwhile
                self._runtime.warn_once(
                    f"reservation {lost} was no longer held; the call goes on and is settled in full"
                )

    def _start(self) -> None:
        # Two first calls at once must not make two threads, of which `close` would end but one.
        with self._starting:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="tokencap-keeper", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # the interpreter is going down: `close` settles
            self._thread = thread

    def _work(self) -> None:
        interval = self._runtime.lease / 3
        renew_at = time.monotonic() + interval
        while True:
            pause = max(0.0, renew_at - time.monotonic())
            if self.work:
                pause = min(pause, _RETRY_SECONDS)
            try:
                if not self._bell.get(timeout=pause):
                    return
                if self._dropped:
                    time.sleep(_GRACE_SECONDS)
            except queue.Empty:
                pass
            if time.monotonic() >= renew_at:
                renewed = self._attempt(self._renew)
                renew_at = time.monotonic() + (interval if renewed else min(interval, _RETRY_SECONDS))
            if self.work and (self._drainer is None or not self._drainer.is_alive()):
                self._drain_aside()

    def _drain_aside(self) -> None:
        # A hook or a callback takes its time, and must not cost the calls under way their holds.
        drainer = threading.Thread(
            target=self._attempt, args=(lambda: run(self.drain()),), name="tokencap-drainer", daemon=True
        )
        with suppress(RuntimeError):  # the interpreter is going down: `close` settles
            drainer.start()
            self._drainer = drainer

    def _attempt(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except BackendError as error:
            log.warning("the store cannot be reached: %s", error, extra={"settlements": len(self._kept)})
        except Exception:
            log.exception("unexpected; the keeper goes on")
        else:
            return True
        return False


def _join(thread: threading.Thread) -> None:
    if thread is not threading.current_thread():
        thread.join(timeout=_JOIN_SECONDS)


def _fail(flow: Flow[None]) -> None:
    """Drive a settlement as on a store that fails, without asking it."""
    try:
        next(flow)
        flow.throw(BackendError("the store has failed already"))
    except StopIteration:
        return
