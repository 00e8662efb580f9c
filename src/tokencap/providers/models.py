"""Whose model a name is."""

from __future__ import annotations

import re
from functools import lru_cache

from ..policy import Provider

__all__ = ["home_of"]

# Names by which a model tells its maker, wherever it is served (Bedrock and Vertex put more around them).
_HOMES = (
    (Provider.ANTHROPIC, re.compile(r"(?i)claude")),
    (
        Provider.OPENAI,
        re.compile(r"(?i)(?:^|[/:.])(?:gpt-|chatgpt|codex|o\d(?:$|-)|text-embedding-|davinci|babbage)"),
    ),
    (
        Provider.COHERE,
        re.compile(
            r"(?i)(?:^|[/:.])(?:command(?:-|$)|c4ai-|cohere|embed-(?:english|multilingual|v\d)|rerank)"
        ),
    ),
    (Provider.GEMINI, re.compile(r"(?i)(?:^|[/:.])(?:gemini|gemma|imagen|learnlm)")),
    (
        Provider.MISTRAL,
        re.compile(r"(?i)(?:^|[/:.])(?:open-)?(?:mi[nsx]tral|codestral|devstral|pixtral|magistral|voxtral)"),
    ),
)


@lru_cache(maxsize=1024)
def home_of(model: str) -> Provider | None:
    """Return the provider whose model this name is; None for a name that does not tell."""
    for provider, pattern in _HOMES:
        if pattern.search(model):
            return provider
    return None
