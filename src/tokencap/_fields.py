"""What a configuration may say: one table for the loader, the schema for editors and the variables.

`python -m tokencap._fields` prints the schema, which is kept in `tokencap.schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from .policy import ActionKind, Provider, ResetPeriod

__all__ = ["LITELLM", "POLICY", "REQUIRED", "TABLES", "TOP", "Field", "Table", "schema"]

Json = dict[str, Any]

TOKENS = "tokens"
LIMIT = "limit"
SECONDS = "seconds"
SHARE = "share"
FLAG = "flag"
TEXT = "text"
TEXTS = "texts"
PAIRS = "pairs"
MODELS = "models"
"""One model, or a model by provider or by model."""
SPAN = "span"
"""A length of time: seconds, or a text like '1h'."""
FUNCTION = "function"
PROVIDERS = "providers"
SPANS = "^[0-9]+[smhd]$"
LITELLM = "litellm"
"""What `patch()` can be told to guard beside the providers."""
LONGEST_WAIT = 86_400
"""Seconds."""


class Field(NamedTuple):
    """One key of a table."""

    kind: str | tuple[str, ...] | Table
    """A word of this module, the texts to choose from, or the table that is in it."""
    about: str
    variable: str = ""
    """The environment variable that wins over it."""


class Table(NamedTuple):
    """A table of the file. `many`: by names of the user's own, or in a list."""

    name: str
    many: str = ""


ACTION: Mapping[str, Field] = {
    "kind": Field(tuple(kind.value for kind in ActionKind), "What to do."),
    "callback": Field(
        FUNCTION, "WARN: a function of the status, as 'package.module:name'; else it is logged."
    ),
    "degrade_to": Field(MODELS, "DEGRADE: a model, or a table of them by provider or by model."),
    "webhook_url": Field(TEXT, "WEBHOOK: where to post to."),
    "webhook_secret": Field(TEXT, "WEBHOOK: what the posts are signed with, 'whsec_...'."),
}
THRESHOLD: Mapping[str, Field] = {
    "at_pct": Field(SHARE, "The share of the limit: 0.8 is 80 %."),
    "actions": Field(Table("action", "list"), "What to do there; 'WARN' and 'BLOCK' as a text or a table."),
}
DIMENSION: Mapping[str, Field] = {
    "limit": Field(LIMIT, "Tokens; a table by identifier with '*' for all others; or a function of it."),
    "thresholds": Field(Table("threshold", "list"), "What happens on the way to the limit."),
    "strict": Field(FLAG, "Never over, under any concurrency."),
    "required": Field(FLAG, "A call for which nobody said an identifier is refused."),
    "reset_every": Field(tuple(period.value for period in ResetPeriod), "How often the counter starts anew."),
    "timezone": Field(TEXT, "With reset_every: whose days these are, 'Europe/Berlin'. UTC by default."),
    "reset_at": Field(TEXT, "With reset_every: when a day, week or month begins, '06:00'."),
    "window": Field(SPAN, "Count the time just gone instead: '30m', '1h', '7d', or seconds."),
}
POLICY: Mapping[str, Field] = {
    "name": Field(TEXT, "What the policy is called in a status."),
    "dimensions": Field(Table("dimension", "names"), "What is budgeted, by name: session, tenant ..."),
    "max_prompt_tokens": Field(TOKENS, "The longest prompt of one call.", "TOKENCAP_MAX_PROMPT_TOKENS"),
    "max_output_tokens": Field(TOKENS, "The most output of one call.", "TOKENCAP_MAX_OUTPUT_TOKENS"),
    "min_output_tokens": Field(
        TOKENS, "The least a strict dimension may clamp an output cap to.", "TOKENCAP_MIN_OUTPUT_TOKENS"
    ),
    "enforce": Field(FLAG, "False: only report what would have been done.", "TOKENCAP_ENFORCE"),
}
TOP: Mapping[str, Field] = {
    "limit": Field(TOKENS, "Short for a policy of one dimension, session, that blocks.", "TOKENCAP_LIMIT"),
    "strict": Field(FLAG, "With limit: never over, under any concurrency.", "TOKENCAP_STRICT"),
    "policy": Field(Table("policy"), "The limits of every dimension."),
    "identifiers": Field(PAIRS, "Whose budgets calls count on, by dimension.", "TOKENCAP_IDENTIFIERS"),
    "backend": Field(
        TEXT, "The store: 'sqlite:tokencap.db', 'redis://host:6379/0', 'memory:'.", "TOKENCAP_BACKEND"
    ),
    "providers": Field(PROVIDERS, "Whose SDKs patch() patches.", "TOKENCAP_PROVIDERS"),
    "wait": Field(SECONDS, "Seconds a call waits for the holds of others.", "TOKENCAP_WAIT"),
    "on_backend_error": Field(
        ("block", "allow"), "What happens while the store fails.", "TOKENCAP_ON_BACKEND_ERROR"
    ),
    "ledger": Field(FLAG, "Whether a record of every call is kept.", "TOKENCAP_LEDGER"),
    "otel": Field(FLAG, "Whether OpenTelemetry metrics are emitted.", "TOKENCAP_OTEL"),
    "quiet": Field(FLAG, "Whether the start-up message is left out.", "TOKENCAP_QUIET"),
}
TABLES: Mapping[str, Mapping[str, Field]] = {
    "policy": POLICY,
    "dimension": DIMENSION,
    "threshold": THRESHOLD,
    "action": ACTION,
}
REQUIRED = {"policy": ["dimensions"], "threshold": ["at_pct", "actions"], "action": ["kind"]}

_COUNT: Json = {"type": "integer", "minimum": 1}
_SAID: Json = {"type": "string", "minLength": 1}
_NAMED: Json = {"type": "object", "minProperties": 1, "additionalProperties": _SAID}
_IMPORTED: Json = {"type": "string", "pattern": "^[^:]+:[^:]+$"}
_KINDS: dict[str, Json] = {
    TOKENS: _COUNT,
    LIMIT: {
        "anyOf": [_COUNT, _IMPORTED, {"type": "object", "required": ["*"], "additionalProperties": _COUNT}]
    },
    SECONDS: {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT},
    SHARE: {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    FLAG: {"type": "boolean"},
    TEXT: _SAID,
    PAIRS: _NAMED,
    MODELS: {"anyOf": [_SAID, _NAMED]},
    SPAN: {"anyOf": [{"type": "number", "minimum": 1}, {"type": "string", "pattern": SPANS}]},
    FUNCTION: _IMPORTED,
    PROVIDERS: {
        "type": "array",
        "minItems": 1,
        "items": {"enum": [*[provider.value for provider in Provider], LITELLM]},
    },
}


def _schema_of(field: Field) -> Json:
    kind = field.kind
    about: Json = {"description": field.about}
    if isinstance(kind, Table):
        inside: Json = {"$ref": f"#/$defs/{kind.name}"}
        if kind.many == "list":
            return {**about, "type": "array", "items": inside}
        if kind.many == "names":
            return {**about, "type": "object", "minProperties": 1, "additionalProperties": inside}
        return {**about, **inside}
    if isinstance(kind, tuple):
        return {**about, "enum": list(kind)}
    return {**about, **_KINDS[kind]}


def _object_of(name: str, table: Mapping[str, Field]) -> Json:
    found: Json = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: _schema_of(field) for key, field in table.items()},
    }
    if name in REQUIRED:
        found["required"] = REQUIRED[name]
    if name == "action":
        return {"anyOf": [{"enum": [ActionKind.WARN.value, ActionKind.BLOCK.value]}, found]}
    return found


def schema() -> Json:
    """Return the JSON schema of `tokencap.toml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tokencap.toml",
        "description": "Token budgets of LLM calls; the same under [tool.tokencap] in pyproject.toml.",
        **_object_of("", TOP),
        "$defs": {name: _object_of(name, table) for name, table in TABLES.items()},
    }


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201
