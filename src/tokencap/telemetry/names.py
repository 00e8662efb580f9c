"""How the semantic conventions for generative AI call what we call otherwise."""

from __future__ import annotations

import re

__all__ = ["operation_of", "provider_name"]

_PROVIDERS = {"mistral": "mistral_ai", "gemini": "gcp.gemini", "google": "gcp.gemini"}

_OPERATIONS = (
    (re.compile(r"embed", re.IGNORECASE), "embeddings"),
    (re.compile(r"generatecontent", re.IGNORECASE), "generate_content"),
    (re.compile(r"^(?!.*chat).*/completions?$|^(?!.*chat).*/complete$|/fim/"), "text_completion"),
)


def provider_name(provider: str) -> str:
    """Return `gen_ai.provider.name` for a provider of ours."""
    return _PROVIDERS.get(provider, provider)


def operation_of(path: str) -> str:
    """Return `gen_ai.operation.name` for the path of an endpoint."""
    return next((name for pattern, name in _OPERATIONS if pattern.search(path)), "chat")
