"""Requests that report on a call begun by an earlier one: a background response, an assistants run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._flow import Flow
from ._session import CallSession, Ending

if TYPE_CHECKING:
    from .providers.dialect import Endpoint

__all__ = ["FollowUp"]


class FollowUp:
    """A request that reports on a call begun by an earlier one. It is never charged itself."""

    def __init__(self, session: CallSession, endpoint: Endpoint) -> None:
        self.runtime = session.runtime
        self.endpoint = endpoint
        self.tally = endpoint.dialect.tally()
        self._session = session

    @property
    def open(self) -> bool:
        """As of the call it reports on."""
        return self._session.open

    def drop(self) -> None:
        """Leave the call open: this was not its stream."""

    def begin(self) -> Flow[dict[str, Any]]:
        """Change nothing: the call was admitted when it was begun."""
        return {}
        yield

    def settle(self, ending: Ending = Ending.OK, final: bool = False) -> Flow[None]:
        """Settle the call if this reply says that it has ended."""
        if self.tally.done and not self.tally.pending:
            self._session.tally = self.tally
            yield from self._session.settle(ending, final)

    def release(self, ending: Ending = Ending.FAILED, billed: bool = False) -> Flow[None]:  # noqa: ARG002
        """Leave the call open: asking for it has failed, not the call."""
        return
        yield
