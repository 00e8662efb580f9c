"""What type checkers see: the class of the client that went in, with `get_status()` on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import anthropic
    import openai

    from .status import StatusResponse

__all__ = [
    "GuardedAnthropic",
    "GuardedAsyncAnthropic",
    "GuardedAsyncOpenAI",
    "GuardedOpenAI",
]

if TYPE_CHECKING:

    class GuardedAnthropic(anthropic.Anthropic):
        """An `Anthropic` client under a Guard."""

        def get_status(self) -> StatusResponse:
            """Return the status of its Guard."""
            ...

    class GuardedAsyncAnthropic(anthropic.AsyncAnthropic):
        """An `AsyncAnthropic` client under a Guard."""

        def get_status(self) -> StatusResponse:
            """Return the status of its Guard."""
            ...

    class GuardedOpenAI(openai.OpenAI):
        """An `OpenAI` client under a Guard."""

        def get_status(self) -> StatusResponse:
            """Return the status of its Guard."""
            ...

    class GuardedAsyncOpenAI(openai.AsyncOpenAI):
        """An `AsyncOpenAI` client under a Guard."""

        def get_status(self) -> StatusResponse:
            """Return the status of its Guard."""
            ...

else:
    GuardedAnthropic = GuardedAsyncAnthropic = GuardedOpenAI = GuardedAsyncOpenAI = Any
