"""Which node of a cluster has a slot, found out and kept up to date. Performs no I/O.

redis-py's cluster clients close connections under other tasks and threads when they learn something new,
and wait in ways that nobody bounds. Here finding the way is a flow, like the verbs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator
from typing import Any, NamedTuple, Union

from . import _redis_topology as topology
from ._redis_scripts import Call

__all__ = ["Address", "Ask", "Learn", "Routes"]

Address = tuple[str, int]

# Ways tried for one script: a slot may have moved more than once, and its node may have to be elected.
_ATTEMPTS = 8
_PAUSE = 0.05
_SLOTS = 16384
# Slots seldom move alone: after so many the owners of all are asked for.
_MOST_MOVED = 8


class Ask(NamedTuple):
    """A script, or the question for the slots (None), to be sent to one node."""

    node: Address
    call: Call | None
    asking: bool = False
    """True where a slot is on its way to that node."""


class Learn(NamedTuple):
    """The owners of the slots to be found out, by one for all, unless somebody has done so since."""

    version: int
    avoided: Address | None


Route = Generator[Union[Ask, Learn, float], Any, bytes]
"""Yields what to do, or for how many seconds to wait; is sent the answer, or thrown redis-py's error."""


class Routes:
    """What is known of a cluster. Replaced as a whole, so that readers need no lock."""

    def __init__(self, seeds: tuple[Address, ...]) -> None:
        self._seeds = seeds
        # By first slot: (first slot, last slot, owner).
        self._ranges: list[tuple[int, int, Address]] = []
        self._moved: dict[int, Address] = {}
        self._outdated = True
        self.version = 0
        """How often the owners were learnt."""

    def route(self, call: Call) -> Route:
        """Find the node for `call` and return its answer."""
        last: Exception | None = None
        avoided: Address | None = None
        for _ in range(_ATTEMPTS):
            if self._outdated:
                yield Learn(self.version, avoided)
            node = self._owner(call.slot)
            if node is None:
                self._outdated = True
                raise LookupError(f"no node of the cluster serves slot {call.slot}")
            try:
                try:
                    answer: bytes = yield Ask(node, call)
                except topology.answered() as error:
                    kind, target = topology.redirection(error, node)
                    if kind != "ASK" or target is None:
                        raise
                    answer = yield Ask(target, call, True)
                return answer
            except topology.answered() as error:
                last = error
                kind, target = topology.redirection(error, node)
                if kind == "MOVED" and target is not None:
                    self._moved = {**self._moved, call.slot: target}
                    if len(self._moved) >= _MOST_MOVED:
                        self._outdated = True
                    yield 0.0
                elif kind in ("TRYAGAIN", "CLUSTERDOWN", "READONLY"):
                    self._outdated = kind != "TRYAGAIN"
                    yield _PAUSE
                else:
                    raise
            except topology.failures() as error:
                last, avoided = error, node
                self._outdated = True
                yield 0.0
        assert last is not None
        raise last

    def learn(self, avoided: Address | None) -> Generator[Ask, Any, None]:
        """Ask any node for the owners of all slots; the one that just failed is asked last."""
        known = dict.fromkeys((*[owner for _, _, owner in self._ranges], *self._seeds))
        last: Exception | None = None
        for node in sorted(known, key=lambda each: each == avoided):
            try:
                answer = yield Ask(node, None)
            except topology.failures() as error:
                last = error
                continue
            ranges = []
            for first, end, (host, port, *_), *_ in answer:
                # A node that does not know its own name is the one that was asked.
                owner = (host.decode() if host and host != b"?" else node[0], int(port))
                ranges.append((int(first), int(end), owner))
            self._ranges, self._moved = sorted(ranges), {}
            self._outdated = False
            self.version += 1
            return
        assert last is not None
        raise last

    def shards(self) -> list[int]:
        """Return a slot of every node that has some, as last learnt."""
        return list({owner: first for first, _, owner in self._ranges}.values())

    def _owner(self, slot: int) -> Address | None:
        if slot in self._moved:
            return self._moved[slot]
        ranges = self._ranges
        at = bisect_right(ranges, (slot, _SLOTS)) - 1
        if at < 0 or not ranges[at][0] <= slot <= ranges[at][1]:
            return None
        return ranges[at][2]
