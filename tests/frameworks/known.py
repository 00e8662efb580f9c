"""What is not green in the matrix of frameworks, and why: the reason lies upstream.

`{framework: {route: {cell: reason}}}`. The cell is one of the matrix, or `bare` where the framework fails
without tokencap too. A cell that is listed here and green all the same fails the run, so that the list stays
true.
"""

from __future__ import annotations

_KEPT_IN_THE_RUN = "not sent; Agno turns any error into a run with status `ERROR` and the message as content"
_THREE_TIMES = (
    "not sent, and raised, after CrewAI repeated it `max_retry_limit` (2) times, as it does any error"
)


def _each(routes: tuple[str, ...], cells: tuple[str, ...], reason: str) -> dict[str, dict[str, str]]:
    return {route: dict.fromkeys(cells, reason) for route in routes}


KNOWN: dict[str, dict[str, dict[str, str]]] = {
    "agno": _each(
        (
            *("chat run", "chat run streamed", "chat arun", "chat tools", "chat structured", "responses run"),
            *("responses run streamed", "anthropic run", "anthropic run streamed", "anthropic arun"),
            "anthropic tools",
        ),
        ("blocked",),
        _KEPT_IN_THE_RUN,
    ),
    "crewai": _each(
        (
            *("openai kickoff", "openai kickoff_async", "openai akickoff", "openai kickoff with tools"),
            *("anthropic kickoff", "anthropic kickoff_async", "anthropic kickoff with tools"),
        ),
        ("blocked",),
        _THREE_TIMES,
    ),
    "litellm": _each(
        ("openai retries", "anthropic retries"),
        ("blocked",),
        "not sent; LiteLLM repeats any error `num_retries` times",
    ),
}
