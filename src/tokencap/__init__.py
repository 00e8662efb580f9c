"""Token budgets for AI agents, in your process.

`wrap()` guards one client, `patch()` guards every client an application makes, and a `Guard` is a
budget shared by many agents. Limits are in tokens, as the provider reports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._call import Call
    from ._coverage import Coverage, CoverageRow, CoverageStatus, coverage
    from ._default import get_status, init, patch, scope, teardown, unpatch, wrap
    from ._typing import GuardedAnthropic, GuardedAsyncAnthropic, GuardedAsyncOpenAI, GuardedOpenAI
    from .budget import BudgetKey, BudgetState, CheckResult
    from .errors import BackendError, BudgetExceededError, ConfigurationError, TokencapError
    from .guard import Guard
    from .policy import Action, ActionKind, DimensionPolicy, Policy, Provider, ResetPeriod, Threshold
    from .status import ChildStatus, StatusResponse, ThresholdInfo
    from .telemetry.otel import Otel
    from .telemetry.record import CallRecord, WouldHave
    from .usage import TokenUsage

__all__ = [
    "Action",
    "ActionKind",
    "BackendError",
    "BudgetExceededError",
    "BudgetKey",
    "BudgetState",
    "Call",
    "CallRecord",
    "CheckResult",
    "ChildStatus",
    "ConfigurationError",
    "Coverage",
    "CoverageRow",
    "CoverageStatus",
    "DimensionPolicy",
    "Guard",
    "GuardedAnthropic",
    "GuardedAsyncAnthropic",
    "GuardedAsyncOpenAI",
    "GuardedOpenAI",
    "Otel",
    "Policy",
    "Provider",
    "ResetPeriod",
    "StatusResponse",
    "Threshold",
    "ThresholdInfo",
    "TokenUsage",
    "TokencapError",
    "WouldHave",
    "__version__",
    "coverage",
    "get_status",
    "init",
    "patch",
    "scope",
    "teardown",
    "unpatch",
    "wrap",
]

# Where the names above are, the cheapest to load first.
_HOMES = (
    "errors",
    "usage",
    "budget",
    "policy",
    "telemetry.record",
    "telemetry.otel",
    "status",
    "_typing",
    "_call",
    "guard",
    "_default",
    "_coverage",
)

if not TYPE_CHECKING:  # or a misspelt name would have a type

    def __getattr__(name: str) -> Any:
        # On first use: a program that imports this package does not always make a call, and a command
        # line should not wait a tenth of a second for its help text.
        if name in __all__:
            from importlib import import_module

            for home in _HOMES:
                module = import_module(f".{home}", __name__)
                if name in module.__all__:
                    value = globals()[name] = getattr(module, name)
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
