"""Budgets in Redis or Valkey: one server, a Sentinel group or a cluster, shared by any number of machines.

Needs Redis 6.2 or any Valkey, and `pip install "tokencap[redis]"`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._audit import Change, Who
from .._entry import Entry, KnownBudget, Retention, Sum
from ..errors import BackendError, ConfigurationError
from . import _redis_topology as topology
from ._redis_cluster import ClusterLink
from ._redis_ledger import LedgerReader
from ._redis_scripts import Call, Flow, Verbs
from ._redis_wire import Line, Link

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.cluster

    from .._periods import Period
    from ..budget import BudgetKey, BudgetState, Grant, Hold, Mark, Reservation, Settlement
    from ._redis_async import AsyncRedisBackend
    from ._rules import Question

__all__ = ["RedisBackend"]

T = TypeVar("T")


class RedisBackend:
    """A store in Redis or Valkey. A call costs two round trips, however many dimensions it has.

    `url`, else the environment's `REDIS_URL`::

        redis://[user:password@]host[:port][/db]              rediss:// for TLS
        unix://[user:password@]/path/to.sock[?db=0]
        redis+sentinel://[user:password@]host[:port],.../service[/db]
        redis+cluster://[user:password@]host[:port],...

    The query takes `client_name`, `ssl_...`, `sentinel_username` and `sentinel_password`.

    A ready `client` lends its address, credentials and TLS settings, nothing else: the backend opens
    connections of its own, so that its time-outs hold and the client is left alone. `async_client` does the
    same for coroutines, where they need other settings; it may be a function instead, called once in each
    event loop, whose client is then used as it is.

    `prefix` begins every key. `timeout` bounds each verb, in seconds, whatever it has to do: connect, ask a
    sentinel, follow a cluster. Looking up a host name outside of an event
    loop is the one thing it cannot cut short.

    The ledger keeps about the last `retention.rows` calls one by one (100,000 if nothing is said), and what
    the calls of a day (UTC) came to for `retention.days` (30). In a cluster it keeps as many calls for every
    budget that is the first of some call's.

    Limits stored with `set_limit` live in Redis and are lost with it; configured ones travel with each call.
    A settlement repeated within 15 minutes, or against the counter it was made on, is booked once; that of a
    reservation lost in a failover is booked if it comes within 15 minutes of its reserve. In a cluster the
    dimensions of a call are reserved one slot after the other, and taken back when one of them refuses.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.Redis | redis.cluster.RedisCluster | None = None,
        async_client: redis.asyncio.Redis
        | redis.asyncio.cluster.RedisCluster
        | Callable[[], Any]
        | None = None,
        prefix: str = "tokencap",
        timeout: float = 2.0,
        retention: Retention | None = None,
    ) -> None:
        topology.require_redis()
        if url is not None and client is not None:
            raise ConfigurationError("give RedisBackend a url or a client, not both")
        if (
            not isinstance(prefix, str)
            or not prefix
            or not prefix.isprintable()
            or set(prefix) & set("{}*?[]^\\")
        ):
            raise ConfigurationError(
                f"prefix must be printable text without any of {{}}*?[]^\\, not {prefix!r}"
            )
        if (
            isinstance(timeout, bool)
            or not isinstance(timeout, (int, float))
            or not 0 < timeout < float("inf")
        ):
            raise ConfigurationError(f"timeout must be a positive number of seconds, not {timeout!r}")
        if client is not None:
            self._topology = topology.from_client(client)
        else:
            url = url if url is not None else os.environ.get("REDIS_URL")
            if not url:
                raise ConfigurationError(
                    "RedisBackend needs a url or a client, or REDIS_URL in the environment"
                )
            self._topology = topology.from_url(url)
        self._topology.check()
        self._async_factory: Callable[[], Any] | None = None
        self._async_topology = self._topology
        if async_client is not None:
            if hasattr(async_client, "connection_pool") or hasattr(async_client, "nodes_manager"):
                self._async_topology = topology.from_client(async_client)
                self._async_topology.check()
            elif callable(async_client):
                self._async_factory = async_client
            else:
                raise ConfigurationError(
                    "async_client must be a redis.asyncio client or a function that makes one"
                )
        self._timeout = float(timeout)
        self._verbs = Verbs(self.name, prefix, clustered=self._topology.clustered, retention=retention)
        self._reader = LedgerReader(self._verbs, self._run, self._shards)
        self._link: Link | None = None
        self._lock = threading.Lock()
        self._lock_pid = os.getpid()
        self._async: AsyncRedisBackend | None = None

    def __repr__(self) -> str:
        return f"RedisBackend({self.name!r})"

    @property
    def name(self) -> str:
        """The address without credentials: `redis:localhost:6379/0`."""
        return self._topology.name

    def reserve(self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = "") -> Grant:
        """As `Backend.reserve`; raises ValueError when a key appears twice."""
        return self._run(self._verbs.reserve(id, holds, charge, lease, about))

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Settlement:
        """As `Backend.settle`."""
        return self._run(self._verbs.settle(reservation, tokens, marks, entry))

    def renew(self, ids: Collection[str], lease: float) -> set[str]:
        """As `Backend.renew`, for the reservations this process made or inherited by a fork."""
        return self._run(self._verbs.renew(ids, lease))

    def pass_marks(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        """As `Backend.pass_marks`."""
        return self._run(self._verbs.pass_marks(marks))

    def get_states(self, keys: Sequence[Question]) -> tuple[BudgetState, ...]:
        """As `Backend.get_states`."""
        return self._run(self._verbs.get_states(keys))

    def set_limit(self, key: BudgetKey, limit: int | None) -> None:
        """As `Backend.set_limit`; raises ConfigurationError for a limit below 1 token."""
        self._run(self._verbs.set_limit(key, limit))

    def grant(self, key: BudgetKey, tokens: int, period: Period | None = None) -> None:
        """As `Backend.grant`; raises ConfigurationError for less than 1 token."""
        self._run(self._verbs.grant(key, tokens, period))

    def reset(self, key: BudgetKey) -> None:
        """As `Backend.reset`. Costs the same however many calls, marks and reservations there were."""
        self._run(self._verbs.reset(key))

    def record(self, entries: Sequence[Entry]) -> None:
        """As `LedgerBackend.record`."""
        self._run(self._verbs.record(entries))

    def now(self) -> float:
        """As `LedgerBackend.now`."""
        return self._reader.now()

    def sums(self, since: float, until: float, period: int = 0) -> Sequence[Sum]:
        """As `LedgerBackend.sums`."""
        return self._reader.sums(since, until, period)

    def calls(self, since: float, until: float, newest_first: bool = False) -> Iterator[tuple[float, Entry]]:
        """As `LedgerBackend.calls`."""
        return self._reader.calls(since, until, newest_first)

    def budgets(self) -> Sequence[KnownBudget]:
        """As `LedgerBackend.budgets`."""
        return self._reader.budgets()

    def change(
        self, key: BudgetKey, action: str, tokens: int | None, who: Who, period: Period | None = None
    ) -> Change:
        """As `LedgerBackend.change`."""
        return self._run(self._verbs.change(key, action, tokens, who, period))

    def changes(self) -> Sequence[Change]:
        """As `LedgerBackend.changes`; 1,000 of each budget are kept."""
        return self._reader.changes()

    def info(self) -> Mapping[str, str]:
        """Return what the server says of itself (INFO). Of a cluster nothing: it is many servers."""
        topology.allow(self._timeout)
        try:
            link = self._link or self._open()
            return link.info() if isinstance(link, Line) else {}
        except topology.failures() as error:
            raise topology.translated(self.name, error) from error

    def as_async(self) -> AsyncRedisBackend:
        """Return this store for coroutines, with a client for each event loop.

        Without a running asyncio loop (trio) a verb runs in one of trio's threads, else where it is awaited.
        """
        if self._async is None:
            from ._redis_async import AsyncRedisBackend

            self._async = AsyncRedisBackend(
                self, self._verbs, self._async_topology, self._async_factory, self._timeout
            )
        return self._async

    def close(self) -> None:
        """Release the connections of threads, and of running event loops as soon as they come to it.

        `aclose` and the end of `asyncio.run` release those of one event loop.
        """
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._async is not None:
            self._async.close()

    def _run(self, flow: Flow[T]) -> T:
        topology.allow(self._timeout)
        result = self._perform(flow)
        if self._verbs.doubtful:
            with suppress(BackendError):
                self._perform(self._verbs.dispel())
        return result

    def _perform(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    answer = self._call(call)
                except BaseException as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _call(self, call: Call) -> bytes:
        """Run one script, a second time where the first found that the connection had gone stale."""
        try:
            link = self._link or self._open()
            try:
                return link.run(call)
            except Exception as error:
                if not topology.stale(error) or topology.left() <= 0 or not link.refresh():
                    raise
            return link.run(call)
        except topology.failures() as error:
            raise topology.translated(self.name, error) from error

    def _shards(self) -> Sequence[int]:
        """Return a slot of every node that has some."""
        link = self._link or self._open()
        return link.shards() if isinstance(link, ClusterLink) else (0,)

    def _open(self) -> Link:
        if self._lock_pid != os.getpid():
            # A thread that does not exist in this process may have held it.
            self._lock, self._lock_pid = threading.Lock(), os.getpid()
        lock = self._lock
        if not lock.acquire(timeout=max(0.0, topology.left())):
            raise TimeoutError("another thread is still connecting")
        try:
            if self._link is None:
                self._link = self._connect()
            return self._link
        finally:
            lock.release()

    def _connect(self) -> Link:
        where = self._topology
        if where.clustered:
            return ClusterLink(where.nodes, partial(where.pool, self._timeout))
        return Line(where.pool(self._timeout))
