"""The links to a cluster: a `Line` to each node, and the way to it by `_redis_routes`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from .._fork import ForkAware, survive_forks
from . import _redis_topology as topology
from ._redis_pump import AsyncLine
from ._redis_routes import Address, Ask, Learn, Routes
from ._redis_scripts import Call
from ._redis_wire import Line, within

__all__ = ["AsyncClusterLink", "ClusterLink"]


class ClusterLink(ForkAware):
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

    def after_fork_in_child(self) -> None:
        """See `_fork`: the thread that may have held it does not exist here."""
        self._learning = threading.Lock()

    def shards(self) -> list[int]:
        """Return a slot of every node that has some, as last learnt."""
        return self._routes.shards()

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
