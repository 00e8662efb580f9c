"""What the calls of a Guard have shown of the models they went to, and of the histories they ended."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from .usage import TokenUsage

if TYPE_CHECKING:
    from ._session import CallSession

__all__ = ["Learned"]

log = logging.getLogger("tokencap.calls")

_REMEMBERED = 10_000


class Learned:
    """Mean outputs and overruns by model, and the sizes of histories that the provider holds."""

    def __init__(self) -> None:
        self._outputs: dict[str, tuple[int, int]] = {}
        self._histories: OrderedDict[str, int] = OrderedDict()
        self._overruns: dict[str, tuple[float, float]] = {}

    def expected_output(self, model: str, cap: int | None) -> int:
        """Return the mean output seen so far for this model, at most `cap`; 0 when none was seen."""
        calls, tokens = self._outputs.get(model, (0, 0))
        mean = -(-tokens // calls) if calls else 0
        return mean if cap is None else min(mean, cap)

    def history_size(self, name: str | None) -> int:
        """Return the last known size of a history the provider holds; 0 when it was not seen here."""
        return self._histories.get(name, 0) if name else 0

    def overruns(self, model: str) -> tuple[float, float]:
        """Return how far prompts and outputs of this model have gone over what was bounded; 1.0: never."""
        return self._overruns.get(model, (1.0, 1.0))

    def learn(self, session: CallSession, held: int) -> None:
        """Remember what a reported usage says about the model and about the history it ends."""
        usage = session.tally.usage
        if usage is None:
            return
        calls, tokens = self._outputs.get(session.model, (0, 0))
        self._outputs[session.model] = (calls + 1, tokens + usage.output_tokens)
        for name in (session.tally.reply_id, session.endpoint.dialect.history(session.body)):
            if name:
                self._histories[name] = usage.total
        if usage.total > held and session.plan.strict:
            self._learn_overrun(session, usage, held)
        while len(self._histories) > _REMEMBERED:
            self._histories.popitem(last=False)

    def _learn_overrun(self, session: CallSession, usage: TokenUsage, held: int) -> None:
        """Say that a strict hold was passed, and hold more for this model from now on."""
        prompt, output = self.overruns(session.model)
        bound = max(1, session.bound)
        room = max(1, held - bound)
        self._overruns[session.model] = (
            max(prompt, prompt * usage.input_tokens / bound),
            max(output, output * usage.output_tokens / room),
        )
        log.error(
            "strict budget passed: %s took %d tokens (%d in, %d out), held were %d; more is held from now on",
            session.model,
            usage.total,
            usage.input_tokens,
            usage.output_tokens,
            held,
            extra={"call_id": session.id, "model": session.model, "tokens": usage.total, "held": held},
        )
