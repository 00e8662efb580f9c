"""Which node of a cluster has a slot, found out and kept up to date: a `Line` to each.

redis-py's cluster clients close connections under other tasks and threads when they learn something new,
and wait in ways that nobody bounds. Here finding the way is a flow that performs no I/O, like the verbs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Union

from . import _redis_topology as topology
from ._fork import survive_forks
from ._redis_scripts import Call
from ._redis_wire import AsyncLine, Line, within

__all__ = ["AsyncClusterLink", "ClusterLink"]

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

    def _owner(self, slot: int) -> Address | None:
        if slot in self._moved:
            return self._moved[slot]
        ranges = self._ranges
        at = bisect_right(ranges, (slot, _SLOTS)) - 1
        if at < 0 or not ranges[at][0] <= slot <= ranges[at][1]:
            return None
        return ranges[at][2]


class ClusterLink:
    """A `Link` to a cluster. `pool` returns what makes connections to one node."""

    def __init__(self, seeds: tuple[Address, ...], pool: Callable[[Address], Any]) -> None:
        self._routes = Routes(seeds)
        self._pool = pool
        self._lines: dict[Address, Line] = {}
        self._learning = threading.Lock()
        survive_forks(self)

    def run(self, call: Call) -> bytes:
        """Return the answer of a script."""
        answer: bytes = self._perform(self._routes.route(call))
        return answer

    def refresh(self) -> bool:
        """Do nothing: a node that failed has been given up already."""
        return False

    def close(self) -> None:
        """Close the connections to all nodes."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.close()

    def before_fork(self) -> None:
        """See `_fork`: nothing to bring to rest."""

    def after_fork_in_parent(self) -> None:
        """See `_fork`."""

    def after_fork_in_child(self) -> None:
        """See `_fork`: the thread that may have held it does not exist here."""
        self._learning = threading.Lock()

    def _perform(self, route: Generator[Any, Any, Any]) -> Any:
        answer: Any = None
        try:
            step = next(route)
            while True:
                try:
                    answer = self._step(step)
                except Exception as error:
                    step = route.throw(error)
                else:
                    step = route.send(answer)
        except StopIteration as stop:
            return stop.value

    def _step(self, step: Ask | Learn | float) -> Any:
        if isinstance(step, Ask):
            return self._ask(step)
        if isinstance(step, Learn):
            return self._learn(step)
        if topology.left() <= step:
            raise TimeoutError("no time left to find the node")
        time.sleep(step)
        return None

    def _learn(self, step: Learn) -> None:
        lock = self._learning
        if not lock.acquire(timeout=max(0.0, topology.left())):
            raise TimeoutError("no time left to find the node")
        try:
            if step.version == self._routes.version:
                self._perform(self._routes.learn(step.avoided))
        finally:
            lock.release()

    def _ask(self, step: Ask) -> Any:
        line = self._lines.get(step.node) or self._lines.setdefault(step.node, Line(self._pool(step.node)))
        try:
            return line.slots() if step.call is None else line.run(step.call, asking=step.asking)
        except topology.answered():
            raise
        except Exception:
            line.refresh()
            raise


class AsyncClusterLink:
    """An `AsyncLink` to a cluster. `patience`: seconds until a silent node is given up."""

    def __init__(self, seeds: tuple[Address, ...], pool: Callable[[Address], Any], patience: float) -> None:
        self._routes = Routes(seeds)
        self._pool = pool
        self._patience = patience
        self._lines: dict[Address, AsyncLine] = {}
        self._learning = asyncio.Lock()

    async def run(self, call: Call) -> bytes:
        """As `Link.run`."""
        answer: bytes = await self._perform(self._routes.route(call))
        return answer

    async def refresh(self) -> bool:
        """As `ClusterLink.refresh`."""
        return False

    async def aclose(self) -> None:
        """As `ClusterLink.close`."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.aclose()

    async def _perform(self, route: Generator[Any, Any, Any]) -> Any:
        answer: Any = None
        try:
            step = next(route)
            while True:
                try:
                    answer = await self._step(step)
                except Exception as error:
                    step = route.throw(error)
                else:
                    step = route.send(answer)
        except StopIteration as stop:
            return stop.value

    async def _step(self, step: Ask | Learn | float) -> Any:
        if isinstance(step, Ask):
            return await self._ask(step)
        if not isinstance(step, Learn):
            await asyncio.sleep(step)
            return None
        async with self._learning:
            if step.version == self._routes.version:
                await self._perform(self._routes.learn(step.avoided))
        return None

    async def _ask(self, step: Ask) -> Any:
        line = self._lines.get(step.node) or self._lines.setdefault(
            step.node, AsyncLine(self._pool(step.node))
        )
        try:
            async with within(self._patience):
                if step.call is None:
                    return await line.slots()
                return await line.run(step.call, asking=step.asking)
        except topology.answered():
            raise
        except asyncio.TimeoutError:
            await line.refresh()
            # Not always an OSError, as the other failures of a connection are.
            raise TimeoutError("a node of the cluster does not answer") from None
        except Exception:
            await line.refresh()
            raise
