"""What type checkers see: the class of the client that went in, with `get_status()` on it.

They are asked what a client has, not of what class it is: a class of an SDK that is not installed is `Any`
to them, and every client would be one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import anthropic
    import openai
    from anthropic.resources import AsyncMessages, Messages
    from openai.resources import AsyncImages, Images

    from .status import StatusResponse

__all__ = [
    "AnAnthropic",
    "AnAsyncAnthropic",
    "AnAsyncAzureOpenAI",
    "AnAsyncOpenAI",
    "AnAzureOpenAI",
    "AnOpenAI",
    "GuardedAnthropic",
    "GuardedAsyncAnthropic",
    "GuardedAsyncOpenAI",
    "GuardedOpenAI",
]

if TYPE_CHECKING:

    class Part(Protocol):
        """What a client of either has. Those of other SDKs may seem to have parts of any name."""

        @property
        def with_raw_response(self) -> object: ...

    class OfAnthropic(Protocol):
        """Either of the two."""

        @property
        def auth_token(self) -> str | None: ...

        @property
        def beta(self) -> Part: ...

    class AnAnthropic(OfAnthropic, Protocol):
        """An `Anthropic`."""

        @property
        def messages(self) -> Messages: ...

    class AnAsyncAnthropic(OfAnthropic, Protocol):
        """An `AsyncAnthropic`."""

        @property
        def messages(self) -> AsyncMessages: ...

    class OfOpenAI(Protocol):
        """Any of the four."""

        @property
        def models(self) -> Part: ...

    class AnOpenAI(OfOpenAI, Protocol):
        """An `OpenAI`."""

        @property
        def images(self) -> Images: ...

    class AnAsyncOpenAI(OfOpenAI, Protocol):
        """An `AsyncOpenAI`."""

        @property
        def images(self) -> AsyncImages: ...

    class AnAzureOpenAI(AnOpenAI, Protocol):
        """An `AzureOpenAI`."""

        @property
        def _azure_ad_token(self) -> str | None: ...

    class AnAsyncAzureOpenAI(AnAsyncOpenAI, Protocol):
        """An `AsyncAzureOpenAI`."""

        @property
        def _azure_ad_token(self) -> str | None: ...

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
