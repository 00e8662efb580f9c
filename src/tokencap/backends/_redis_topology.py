"""Where a Redis is and how to reach it: addresses read from a URL or a client, clients made from them.

The clients made here never wait longer than they are told and never try again by themselves: redis-py's
own defaults (no time-out before 6, ten retries since) would hold a call for a minute.
"""

from __future__ import annotations

import inspect
import threading
import time
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from .._fork import Mutex, load_before_forks
from ..errors import BackendError, ConfigurationError

__all__ = [
    "CLUSTER_SHARE",
    "Topology",
    "allow",
    "answered",
    "failures",
    "from_client",
    "from_url",
    "left",
    "redirection",
    "require_redis",
    "stale",
    "translated",
]

_SPELLINGS = (
    "redis://[user:password@]host[:port][/db], unix://[user:password@]/path/to.sock[?db=0], "
    "redis+sentinel://[user:password@]host[:port],.../service[/db], "
    "redis+cluster://[user:password@]host[:port],..., and rediss... for TLS"
)
# What a connection takes from a URL's query or from a ready client. Time-outs, retries, decoding and the
# protocol are the backend's own.
_OPTIONS = {
    *("db", "username", "password", "credential_provider", "client_name", "path"),
    *("socket_keepalive", "socket_keepalive_options", "socket_type"),
}
_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}
_PLENTY = 2**31 - 1
_SYNC, _ASYNC = "redis", "redis.asyncio"
# Parts of the whole time-out that one silent node may use up, so that there is time to ask another.
_SENTINEL_SHARE = 4
CLUSTER_SHARE = 3
_MOST_FOR_TLS = 5.0
"""Seconds that a fork waits for one connection."""

_CODES = {
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "CLUSTERDOWN",
    "ReadOnlyError": "READONLY",
}

_allowance = threading.local()


def allow(seconds: float) -> None:
    """Let this thread's connections wait `seconds` from now on, over all their steps."""
    _allowance.until = time.monotonic() + seconds


def left() -> float:
    """Return what is left of it, in seconds; may be negative; infinite for other threads."""
    until: float = getattr(_allowance, "until", float("inf"))
    return until - time.monotonic()


def require_redis() -> None:
    """Raise ConfigurationError unless redis-py is there and recent enough."""
    try:
        import redis
    except ImportError:
        raise ConfigurationError(
            'RedisBackend needs the redis package: pip install "tokencap[redis]"'
        ) from None
    if int(redis.__version__.split(".")[0]) < 5:
        raise ConfigurationError(
            f'RedisBackend needs redis-py 5, this is {redis.__version__}: pip install "tokencap[redis]"'
        )
    load_before_forks()


@cache
def failures() -> tuple[type[Exception], ...]:
    """Return what redis-py raises, on purpose or not, when the store cannot be used."""
    from redis.exceptions import ChildDeadlockedError, RedisClusterException, RedisError

    # The last four: an answer that is not Redis, a cluster client that lost track of its nodes, a loop
    # that is being closed.
    return (
        RedisError,
        RedisClusterException,
        ChildDeadlockedError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        RuntimeError,
    )


def stale(error: Exception) -> bool:
    """Return whether a new connection may do better at once."""
    from redis import exceptions

    if isinstance(error, (exceptions.AuthenticationError, exceptions.BusyLoadingError)):
        return False
    return isinstance(error, (exceptions.ConnectionError, exceptions.ReadOnlyError))


@cache
def answered() -> type[Exception]:
    """Return what redis-py raises for an answer that is an error."""
    from redis.exceptions import ResponseError

    return ResponseError


def redirection(error: Exception, node: tuple[str, int]) -> tuple[str, tuple[str, int] | None]:
    """Return the code of an error that `node` of a cluster answered, and the node it points to, if any."""
    # Not every version has a class for each; what has none keeps the code in its text.
    text = str(error)
    code = _CODES.get(type(error).__name__) or text.partition(" ")[0]
    if code not in ("MOVED", "ASK"):
        return code, None
    host, _, port = text.rpartition(" ")[2].rpartition(":")
    return code, (host or node[0], int(port))


def translated(name: str, error: BaseException) -> BackendError:
    """Return what `error` of the store called `name` is to the caller."""
    return BackendError(f"{name}: {error or type(error).__name__}")


class Topology(NamedTuple):
    """How to reach one store."""

    nodes: tuple[tuple[str, int], ...]
    """The server, the sentinels or some nodes of the cluster; empty for a socket file."""
    options: dict[str, Any]
    """Keyword arguments of a connection; credentials among them."""
    tls: bool = False
    service: str | None = None
    """The master's name, when `nodes` are sentinels."""
    sentinel_options: dict[str, Any] = {}  # noqa: RUF012
    clustered: bool = False

    def __repr__(self) -> str:
        return f"Topology({self.name!r})"

    @property
    def name(self) -> str:
        """Address and database, without credentials: `redis:localhost:6379/0`."""
        nodes = ",".join([f"{_bracketed(host)}:{port}" for host, port in self.nodes])
        db = self.options.get("db") or 0
        if self.clustered:
            return f"redis:cluster:{nodes}"
        if self.service is not None:
            return f"redis:sentinel:{nodes}/{self.service}/{db}"
        return f"redis:{nodes or self.options['path']}/{db}"

    def check(self) -> None:
        """Raise ConfigurationError when a connection cannot be made of the options. No I/O."""
        for flavour in _SYNC, _ASYNC:
            options = self._settings(flavour, 1.0)
            del options["max_connections"]  # the pool's
            try:
                options.pop("connection_class")(**options)
            except Exception as error:
                # The message of a bad option may quote its value, which may be a secret.
                reason = type(error).__name__
                raise ConfigurationError(f"{self.name}: bad connection option ({reason})") from None

    def pool(self, timeout: float, node: tuple[str, int] | None = None) -> Any:
        """Return what makes connections for threads, whose waits share what `allow` gives.

        `node`: to this node of a cluster, and none of the waits is longer than its share.
        """
        return self._pool(_SYNC, timeout if node is None else timeout / CLUSTER_SHARE, timeout, node)

    def async_pool(self, timeout: float, node: tuple[str, int] | None = None) -> Any:
        """Return what makes connections for coroutines. The caller bounds what it does with them."""
        # Without time-outs of its own a connection spares a task and a timer for each command.
        return self._pool(_ASYNC, None, timeout, node)

    def _pool(self, flavour: str, wait: float | None, timeout: float, node: tuple[str, int] | None) -> Any:
        module = import_module(flavour)
        options = self._settings(flavour, wait)
        if self.service is None:
            if self.nodes:
                options["host"], options["port"] = node or self.nodes[0]
            return module.ConnectionPool(**options)
        sentinel = import_module(f"{flavour}.sentinel")
        kind = sentinel.SentinelManagedSSLConnection if self.tls else sentinel.SentinelManagedConnection
        options["connection_class"] = _bounded(kind) if flavour == _SYNC else _announced(kind)
        asking = self._settings(flavour, timeout / _SENTINEL_SHARE, self.sentinel_options)
        manager = sentinel.Sentinel([])
        manager.sentinels = [
            module.Redis(connection_pool=module.ConnectionPool(host=host, port=port, **asking))
            for host, port in self.nodes
        ]
        return sentinel.SentinelConnectionPool(self.service, manager, **options)

    def _settings(
        self, flavour: str, wait: float | None, own: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the keyword arguments of a connection pool, without the address."""
        options = dict(self.options if own is None else own)
        module = import_module(f"{flavour}.connection")
        if "path" in options:
            kind = module.UnixDomainSocketConnection
        else:
            kind = module.SSLConnection if self.tls else module.Connection
        if self.tls:
            # What only the other flavour of connection knows is left out.
            known = inspect.signature(kind.__init__).parameters
            options = {name: value for name, value in options.items() if name[:4] != "ssl_"}
            options.update({name: value for name, value in self.options.items() if name in known})
        options.update(
            connection_class=_bounded(kind) if flavour == _SYNC else _announced(kind),
            socket_timeout=wait,
            socket_connect_timeout=wait,
            max_connections=_PLENTY,
            protocol=2,
            retry=_retry(flavour, 0),
        )
        return options


def from_url(url: str) -> Topology:
    """Read an address; raises ConfigurationError, never quoting the URL: it may hold a password."""
    try:
        return _parse(url)
    except ConfigurationError:
        raise
    except Exception:
        # Not chained: urllib quotes what it cannot read, and that may be a part of the password.
        raise ConfigurationError(f"cannot read the Redis URL; accepted: {_SPELLINGS}") from None


def from_client(client: Any) -> Topology:
    """Read the address, credentials and TLS settings of a ready client; it is not used itself."""
    manager = getattr(client, "nodes_manager", None)
    if manager is not None:
        nodes = tuple((node.host, int(node.port)) for node in _values(manager.startup_nodes))
        options = dict(getattr(client, "connection_kwargs", None) or manager.connection_kwargs)
        kind = options.get("connection_class")
        tls = bool(options.get("ssl")) or (kind is not None and _is_a(kind, "SSLConnection"))
        options.pop("db", None)
        return Topology(nodes, _pick(options), tls, clustered=True)
    pool: Any = getattr(client, "connection_pool", None)
    kind = getattr(pool, "connection_class", None)
    if not isinstance(kind, type) or not _is_a(kind, "AbstractConnection"):
        raise ConfigurationError(
            "a ready client must be a Redis (Sentinel.master_for makes one, too) or a RedisCluster"
        )
    options = dict(pool.connection_kwargs)
    tls = _is_a(kind, "SSLConnection")
    service = getattr(pool, "service_name", None)
    if service is not None:
        sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
        nodes = tuple((each["host"], int(each["port"])) for each in sentinels)
        return Topology(nodes, _pick(options), tls, service, _pick(sentinels[0]))
    if "path" in options:
        return Topology((), _pick(options))
    nodes = ((options.get("host", "localhost"), int(options.get("port", 6379))),)
    return Topology(nodes, _pick(options), tls)


def _parse(url: str) -> Topology:
    parse_url = import_module("redis.connection").parse_url
    parts = urlsplit(url)
    scheme, _, form = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or form not in ("", "sentinel", "cluster"):
        raise ConfigurationError(f"cannot read the Redis URL; accepted: {_SPELLINGS}")
    tls = scheme == "rediss"
    if scheme == "unix":
        if form or not parts.path:
            raise ConfigurationError(f"cannot read the Redis URL; accepted: {_SPELLINGS}")
        return Topology((), _checked(parse_url(url)))
    user, at, hosts = parts.netloc.rpartition("@")
    nodes = tuple(_address(text, 26379 if form == "sentinel" else 6379) for text in hosts.split(","))
    if not form and len(nodes) > 1:
        raise ConfigurationError("several hosts are a redis+sentinel:// or a redis+cluster:// URL")
    steps = [unquote(step) for step in parts.path.split("/") if step]
    service = steps.pop(0) if form == "sentinel" and steps else None
    if form == "sentinel" and not service:
        raise ConfigurationError(
            "a Sentinel URL names the service: redis+sentinel://host:26379,.../service[/db]"
        )
    if len(steps) > (form != "cluster") or any(not step.isdigit() for step in steps):
        raise ConfigurationError("the path of a Redis URL is a database number: redis://host:6379/0")
    query = f"?{parts.query}" if parts.query else ""
    options = parse_url(f"redis://{user}{at}host/{steps[0] if steps else ''}{query}")
    options.pop("host", None)
    sentinel = {new: options.pop(name) for name, new in _SENTINEL_OPTIONS.items() if name in options}
    if sentinel and form != "sentinel":
        raise ConfigurationError("sentinel_username and sentinel_password belong to redis+sentinel://")
    options = _checked(options)
    if form == "cluster" and options.pop("db", 0):
        raise ConfigurationError("a cluster has database 0 only")
    return Topology(nodes, options, tls, service, sentinel, clustered=form == "cluster")


def _address(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if text.strip() != text or not (parts.hostname or default == 6379) or "/" in text:
        raise ConfigurationError(f"cannot read the Redis URL; accepted: {_SPELLINGS}")
    return unquote(parts.hostname or "localhost"), parts.port or default


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    options.pop("connection_class", None)
    for name in options:
        if "timeout" in name or "retry" in name:
            raise ConfigurationError(f"the Redis URL sets {name}: use RedisBackend(timeout=...) instead")
        if name not in _OPTIONS and not name.startswith("ssl_"):
            raise ConfigurationError(f"the Redis URL has an unknown option, {name!r}")
    return options


def _pick(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if value is not None and (name in _OPTIONS or name.startswith("ssl_"))
    }


def _values(nodes: Any) -> list[Any]:
    return list(nodes.values()) if isinstance(nodes, dict) else list(nodes)


def _is_a(kind: type, name: str) -> bool:
    return any(each.__name__ == name and each.__module__.startswith("redis.") for each in kind.__mro__)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _retry(flavour: str, times: int) -> Any:
    return import_module(f"{flavour}.retry").Retry(import_module("redis.backoff").NoBackoff(), times)


@cache
def _announced(base: Any) -> Any:
    """Return `base`, a connection for coroutines, so that a fork waits for the TLS that it sets up.

    All TLS of a child would wait for ever for what a thread of its parent was setting up for it.
    """

    class Announced(base):  # type: ignore[misc]
        def _connection_arguments(self) -> Any:
            mutex = Mutex(patience=_MOST_FOR_TLS)
            with mutex.lock:
                return super()._connection_arguments()

    return Announced


@cache
def _bounded(base: Any) -> Any:
    """Return `base` as a connection whose every wait ends when its thread's allowance does.

    A fork waits for its TLS, see `_announced`.
    """
    timeout_error = import_module("redis").TimeoutError

    class Bounded(base):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._most = options["socket_timeout"]

        def _connect(self) -> Any:
            wait = self._wait()
            self.socket_timeout = wait
            # A name may have two addresses, and each is tried that long.
            self.socket_connect_timeout = wait / 2
            return super()._connect()

        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            if self._sock is not None:
                wait = self._wait()
                # Setting it is a system call, and it hardly changes from one command to the next.
                if not wait * 0.95 <= (self._sock.gettimeout() or 0.0) <= wait * 1.05:
                    self._sock.settimeout(wait)
            super().send_packed_command(command, check_health)

        def _wrap_socket_with_ssl(self, sock: Any) -> Any:
            mutex = Mutex(patience=self._most)
            with mutex.lock:
                return super()._wrap_socket_with_ssl(sock)

        def _wait(self) -> float:
            wait: float = min(left(), self._most)
            if wait <= 0:
                raise timeout_error("no time left")
            return wait

    return Bounded
