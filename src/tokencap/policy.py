"""What is allowed: `Policy > DimensionPolicy > Threshold > Action`. Frozen, validated when built."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from inspect import iscoroutinefunction
from typing import Any, Callable, TypeVar, cast
from urllib.parse import urlsplit

from ._periods import Period, calendar, rolling
from .budget import UNLIMITED
from .errors import ConfigurationError

__all__ = [
    "Action",
    "ActionKind",
    "DimensionPolicy",
    "Policy",
    "Provider",
    "ResetPeriod",
    "Threshold",
    "check_count",
    "check_dimension",
    "check_flag",
    "resolve_policy",
    "secret_key",
]


class _Named(str, Enum):
    """An enum whose members are their own string values, in every Python version."""

    __str__ = str.__str__

    def __format__(self, spec: str) -> str:
        return str.__format__(self.value, spec)


class ActionKind(_Named):
    """What happens at a threshold, in the order it happens."""

    WARN = "WARN"
    WEBHOOK = "WEBHOOK"
    DEGRADE = "DEGRADE"
    BLOCK = "BLOCK"


class Provider(_Named):
    """Whose SDK is guarded."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    GEMINI = "gemini"
    MISTRAL = "mistral"
    COHERE = "cohere"


class ResetPeriod(_Named):
    """How often a counter starts anew. Weeks begin on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


E = TypeVar("E", bound=_Named)


def as_member(kind: type[E], value: object, what: str, *others: str) -> E:
    """Return the member of `kind` that `value` is or spells. `others` are accepted elsewhere."""
    try:
        return kind(value)
    except ValueError:
        accepted = ", ".join(repr(name) for name in (*(member.value for member in kind), *others))
        raise ConfigurationError(f"{what} is {value!r}; accepted are {accepted}") from None


def check_count(value: object, what: str) -> int:
    """Return `value` if it is a whole number of tokens of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(
            f"{what} is {value!r}; it must be a whole number of tokens, an int of at least 1"
        )
    if not 1 <= value < UNLIMITED:
        raise ConfigurationError(f"{what} is {value:,}; it must be at least 1 and below {UNLIMITED:,} tokens")
    return value


def check_flag(value: object, what: str) -> None:
    """Raise `ConfigurationError` for what is not a bool: the text "false", from a variable, is true."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is {value!r}; it must be True or False")


def check_dimension(value: object) -> str:
    """Return `value` if it can name a dimension."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(
            f"a dimension is named {value!r}; names are non-empty strings like 'session'"
        )
    return value


_FIELD_OF = {ActionKind.WARN: "callback", ActionKind.WEBHOOK: "webhook_url", ActionKind.DEGRADE: "degrade_to"}


@dataclass(frozen=True, init=False)
class Action:
    """One thing to do at a threshold.

    WARN takes `callback(status)`, called once per window in the caller's thread; it may be
    `async def`. DEGRADE takes `degrade_to`: a model, or a mapping from provider or from model to
    model. WEBHOOK takes `webhook_url` (http or https) and, if its posts are to be signed as Standard
    Webhooks are, `webhook_secret` ("whsec_" and at least 24 bytes in base64). BLOCK takes nothing.
    """

    kind: ActionKind
    callback: Callable[[Any], Any] | None = None
    degrade_to: str | Mapping[str, str] | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)

    def __init__(
        self,
        kind: ActionKind | str,
        callback: Callable[[Any], Any] | None = None,
        degrade_to: str | Mapping[str, str] | None = None,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
    ) -> None:
        kind = as_member(ActionKind, kind, "the kind of an Action")
        fields = {"kind": kind, "callback": callback, "degrade_to": degrade_to, "webhook_url": webhook_url}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        wanted = _FIELD_OF.get(kind)
        for name in ("callback", "degrade_to", "webhook_url"):
            if name != wanted and getattr(self, name) is not None:
                raise ConfigurationError(f"{name}= was given to a {kind} action, which has no use for it")
        if kind is ActionKind.WARN and not callable(self.callback):
            raise ConfigurationError(
                f"a WARN action needs callback=, a function of one StatusResponse; it is {self.callback!r}"
            )
        if kind is ActionKind.DEGRADE:
            object.__setattr__(self, "degrade_to", _check_degrade_to(self.degrade_to))
        object.__setattr__(self, "webhook_secret", webhook_secret)
        if kind is ActionKind.WEBHOOK:
            _check_url(self.webhook_url)
            if webhook_secret is not None:
                secret_key(webhook_secret)
        elif webhook_secret is not None:
            raise ConfigurationError(f"webhook_secret= was given to a {kind} action, which has no use for it")


def _check_degrade_to(value: object) -> str | dict[str, str]:
    if isinstance(value, str) and value.strip():
        return str(value)
    if isinstance(value, Mapping) and value:
        items = {str(key): model for key, model in value.items() if isinstance(key, str) and key.strip()}
        if len(items) == len(value) and all(isinstance(m, str) and m.strip() for m in items.values()):
            return items
    raise ConfigurationError(
        f"a DEGRADE action needs degrade_to=, a model name or a mapping like "
        f"{{'anthropic': 'claude-haiku-4-5', 'gpt-4o': 'gpt-4o-mini'}}; it is {value!r}"
    )


_LEAST_SECRET = 24


def secret_key(secret: object) -> bytes:
    """Return the key in a webhook secret. Raises `ConfigurationError`, which does not repeat it."""
    try:
        if isinstance(secret, str) and secret.startswith("whsec_"):
            key = base64.b64decode(secret[len("whsec_") :], validate=True)
            if len(key) >= _LEAST_SECRET:
                return key
    except ValueError:
        pass
    raise ConfigurationError(f"webhook_secret must be 'whsec_' and at least {_LEAST_SECRET} bytes in base64")


_IN_A_URL = frozenset(map(chr, range(33, 127)))


def _check_url(value: object) -> None:
    problem = "it must be an http:// or https:// URL with a host, in ASCII without spaces"
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"a WEBHOOK action needs webhook_url=; it is {value!r}; {problem}")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"webhook_url is not a URL ({error}); {problem}") from None
    if parts.scheme not in ("http", "https") or not host or not _IN_A_URL.issuperset(value):
        raise ConfigurationError(f"webhook_url has scheme {parts.scheme!r} and host {host!r}; {problem}")


@dataclass(frozen=True)
class Threshold:
    """Actions due at a share of the limit; `at_pct=0.8` is 80 %."""

    at_pct: float
    actions: Sequence[Action]

    def __post_init__(self) -> None:
        at = self.at_pct
        if isinstance(at, bool) or not isinstance(at, (int, float)) or not 0 < at <= 1:
            raise ConfigurationError(
                f"at_pct is {at!r}; it must be a number above 0 and at most 1 (0.8 is 80 %)"
            )
        object.__setattr__(self, "at_pct", float(at))
        object.__setattr__(self, "actions", _sequence_of(Action, self.actions, "actions", least=1))
        kinds = [action.kind for action in self.actions]
        if kinds.count(ActionKind.DEGRADE) > 1:
            raise ConfigurationError(f"the threshold at {at} has more than one DEGRADE action")


_TIME = re.compile("([01][0-9]|2[0-3]):[0-5][0-9]")


def _check_time(value: object) -> None:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ConfigurationError(f"reset_at is {value!r}; it must be a time of day from '00:00' to '23:59'")


def _check_window(value: object) -> None:
    if not isinstance(value, timedelta):
        raise ConfigurationError(f"window is {value!r}; it must be a timedelta, like timedelta(hours=1)")
    if not timedelta(seconds=1) <= value <= timedelta(days=366):
        raise ConfigurationError(f"window is {value}; it must be from a second to 366 days long")


T = TypeVar("T")


def _sequence_of(kind: type[T], value: object, what: str, least: int = 0) -> tuple[T, ...]:
    if isinstance(value, kind) or not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ConfigurationError(f"{what} is {value!r}; it must be a list of {kind.__name__}")
    for item in value:
        if not isinstance(item, kind):
            raise ConfigurationError(f"{what} holds {item!r}; it must hold {kind.__name__} objects only")
    if len(value) < least:
        raise ConfigurationError(f"{what} is empty; at least {least} {kind.__name__} is needed")
    return tuple(value)


def _check_limit(value: Any) -> int | dict[str, int] | Callable[[str], int]:
    if isinstance(value, Mapping):
        if "*" not in value:
            raise ConfigurationError(
                f"limit is {value!r}; a limit by identifier needs one for all others, like "
                "{'acme': 1_000_000, '*': 50_000}"
            )
        for name, limit in value.items():
            if not isinstance(name, str) or not name:
                raise ConfigurationError(
                    f"limit names the identifier {name!r}; it must be a non-empty string"
                )
            check_count(limit, f"the limit of {name!r}")
        return dict(value)
    if not callable(value):
        return check_count(value, "limit")
    if iscoroutinefunction(value):
        raise ConfigurationError("limit is an async function; it must return its number at once")
    return cast("Callable[[str], int]", value)


@dataclass(frozen=True)
class DimensionPolicy:
    """The limit of one dimension, in tokens, and what happens on the way there.

    Without a BLOCK action nothing is ever refused. Without `limit` the dimension is only counted. Without
    `reset_every` or `window` it is counted for ever.
    A limit may differ by identifier: a mapping whose `"*"` is for all others, or a function of the
    identifier. The function is asked at every call, in the caller's thread: let it be quick.
    """

    limit: int | Mapping[str, int] | Callable[[str], int] | None = None
    thresholds: Sequence[Threshold] = ()
    reset_every: ResetPeriod | str | None = None
    """Start anew with each minute, hour, day, week or month, by the clock of the store."""
    strict: bool = False
    """Never over, under any concurrency: every call holds all it can take, and its output is capped."""
    required: bool = False
    """No identifier is made up: a call for which nobody said one is refused with `ConfigurationError`."""
    timezone: str | None = None
    """Whose minutes, hours, days ... these are: "Europe/Berlin". None: UTC."""
    reset_at: str | None = None
    """When a day, a week (on Monday) or a month (on the 1st) begins: "06:00". None: at midnight."""
    window: timedelta | None = None
    """Count the time just gone instead: what was settled in the last hour, say. A token is counted for
    `window` from when its call is settled, and at most a sixtieth longer."""

    def __post_init__(self) -> None:
        check_flag(self.strict, "strict")
        check_flag(self.required, "required")
        thresholds = _sequence_of(Threshold, self.thresholds, "thresholds")
        object.__setattr__(self, "thresholds", tuple(sorted(thresholds, key=lambda t: t.at_pct)))
        if self.limit is not None:
            object.__setattr__(self, "limit", _check_limit(self.limit))
        elif self.strict:
            raise ConfigurationError("strict=True was given without a limit= to keep")
        elif thresholds:
            raise ConfigurationError("thresholds are shares of a limit, and no limit= was given")
        if self.reset_every is not None:
            object.__setattr__(self, "reset_every", as_member(ResetPeriod, self.reset_every, "reset_every"))
        self._check_period()

    def _check_period(self) -> None:
        every = self.reset_every
        if self.window is not None:
            if every is not None:
                raise ConfigurationError(
                    "reset_every= and window= were both given; a budget starts anew with the calendar or "
                    "counts the time just gone, not both"
                )
            _check_window(self.window)
        for name in ("timezone", "reset_at"):
            if getattr(self, name) is not None and every is None:
                raise ConfigurationError(f"{name}= was given without reset_every=, and has no use alone")
        if self.timezone is not None and (not isinstance(self.timezone, str) or not self.timezone):
            raise ConfigurationError(
                f"timezone is {self.timezone!r}; it must be the name of a time zone, like 'Europe/Berlin'"
            )
        if self.reset_at is not None:
            _check_time(self.reset_at)
            if every in (ResetPeriod.MINUTE, ResetPeriod.HOUR):
                raise ConfigurationError(
                    f"reset_at= was given with reset_every={str(every)!r}; it is for day, week and month"
                )
        self.period  # noqa: B018  # an unknown zone is said now, not at the first call

    @property
    def period(self) -> Period | None:
        """How long the counter runs; None: for ever. Raises ConfigurationError for an unknown zone."""
        if self.window is not None:
            return rolling(self.window.total_seconds())
        if self.reset_every is None:
            return None
        hours, _, minutes = (self.reset_at or "00:00").partition(":")
        return calendar(str(self.reset_every), self.timezone or "UTC", int(hours) * 60 + int(minutes))

    def limit_for(self, identifier: str) -> int | None:
        """Return the limit of one identifier. Raises `ConfigurationError` when a function gives none."""
        limit = self.limit
        if limit is None or isinstance(limit, int):
            return limit
        if isinstance(limit, Mapping):
            return limit[identifier] if identifier in limit else limit["*"]
        what = f"the limit of {identifier!r}, as its function gives it,"
        try:
            found = limit(identifier)
        except Exception as error:
            raise ConfigurationError(f"the function that gives the limit of {identifier!r} failed") from error
        return check_count(found, what)

    @property
    def block_at(self) -> float | None:
        """The share of the limit above which calls are refused; None when nothing blocks."""
        for threshold in self.thresholds:
            if any(action.kind is ActionKind.BLOCK for action in threshold.actions):
                return threshold.at_pct
        return 1.0 if self.strict else None


@dataclass(frozen=True)
class Policy:
    """The limits of every dimension, by name."""

    dimensions: Mapping[str, DimensionPolicy]
    name: str = "default"
    max_output_tokens: int | None = None
    """The most output one call may ask for, all choices together: its cap is lowered to this, and written
    where it states none. By default only calls under a strict dimension that state none get one: 4,096."""
    min_output_tokens: int | None = None
    """The least a strict dimension may clamp an output cap to. By default half of the cap, or less where the
    model is known to answer in less; 256 of a cap that nobody stated."""
    max_prompt_tokens: int | None = None
    """The longest prompt one call may have, as counted or estimated beforehand. A longer one is refused."""
    enforce: bool = True
    """False: calls are counted, and what would have been warned, degraded and blocked is reported
    (`would_have` of `CallRecord` and `StatusResponse`); nothing is done, no call is changed or refused."""

    def __post_init__(self) -> None:
        if not isinstance(self.dimensions, Mapping) or not self.dimensions:
            raise ConfigurationError(
                f"dimensions is {self.dimensions!r}; it must be a non-empty mapping like "
                "{'session': DimensionPolicy(limit=50_000)}"
            )
        for dimension, policy in self.dimensions.items():
            check_dimension(dimension)
            if not isinstance(policy, DimensionPolicy):
                raise ConfigurationError(
                    f"the policy of {dimension!r} is {policy!r}; it must be a DimensionPolicy"
                )
        object.__setattr__(self, "dimensions", dict(self.dimensions))
        for name in ("max_prompt_tokens", "max_output_tokens", "min_output_tokens"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        check_flag(self.enforce, "enforce")
        if not isinstance(self.name, str) or not self.name:
            raise ConfigurationError(f"the name of a Policy is {self.name!r}; it must be a non-empty string")

    @classmethod
    def blocking(cls, limit: int, strict: bool = False) -> Policy:
        """Return what `limit=N` is short for: one dimension, `session`, blocked at 100 %."""
        block = Threshold(at_pct=1.0, actions=[Action(kind=ActionKind.BLOCK)])
        return cls({"session": DimensionPolicy(limit=limit, thresholds=[block], strict=strict)})

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Policy:
        """Return the policy that a `tokencap.toml`, or `[tool.tokencap]` in a `pyproject.toml`, describes.

        Raises `ConfigurationError` with the file, the key and its line.
        """
        from ._config import policy_of

        return policy_of(path)

    @classmethod
    def tracking(cls) -> Policy:
        """Return the policy that counts and enforces nothing."""
        return cls({"session": DimensionPolicy()})


def resolve_policy(limit: int | None, policy: Policy | None, strict: bool = False) -> Policy:
    """Return what `limit=`, `policy=` and `strict=` stand for together."""
    if limit is not None and policy is not None:
        raise ConfigurationError("limit= and policy= are mutually exclusive: put the limit into the policy")
    if strict and limit is None:
        raise ConfigurationError(
            "strict=True goes with limit=; in a policy, say DimensionPolicy(strict=True)"
        )
    if limit is not None:
        return Policy.blocking(limit, strict)
    if policy is None:
        return Policy.tracking()
    if not isinstance(policy, Policy):
        raise ConfigurationError(f"policy is {policy!r}; it must be a tokencap.Policy")
    return policy
