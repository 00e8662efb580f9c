"""The exceptions of tokencap.

::

    TokencapError
     +-- BudgetExceededError      a call was refused before it was sent
     +-- BackendError             the store could not be reached or used
     +-- ConfigurationError       bad input, refused where it was given (also a ValueError)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .budget import CheckResult

__all__ = ["BackendError", "BudgetExceededError", "ConfigurationError", "TokencapError"]


class TokencapError(Exception):
    """Base of everything tokencap raises."""


class ConfigurationError(TokencapError, ValueError):
    """Something given to tokencap is unusable; the message says what is accepted."""


class BackendError(TokencapError):
    """The store failed. Before a call: the call was not made. The cause is chained."""


class BudgetExceededError(TokencapError):
    """A call was refused because its budget is gone. Nothing was sent.

    `check_result.violated` names each dimension that refused,
    `check_result.states` has the state of all of them, in tokens.
    """

    status_code = 402
    """For retry logic that asks an error for its HTTP status: nothing transient, so not to be repeated."""

    def __init__(self, check_result: CheckResult) -> None:
        super().__init__(check_result)
        self.check_result = check_result

    @property
    def contended(self) -> bool:
        """True when only the holds of calls still in flight stood in the way."""
        return self.check_result.contended

    def __str__(self) -> str:
        return self.check_result.explain()
