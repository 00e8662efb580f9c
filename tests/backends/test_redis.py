"""What is Redis's own: addresses, keys, scripts, event loops, forks. On a real server."""

from __future__ import annotations

import asyncio
import builtins
import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import uuid

import pytest

from backends.redis_servers import fresh_prefix, shared_server
from forked import forks
from tokencap._audit import Who
from tokencap._periods import calendar, rolling
from tokencap.backends._redis_scripts import Verbs, _places
from tokencap.backends.redis import RedisBackend
from tokencap.budget import UNLIMITED, Asked, BudgetKey, BudgetState, Hold, Mark, share_ceil, share_floor
from tokencap.errors import BackendError, ConfigurationError

pytestmark = pytest.mark.service

A = BudgetKey("tenant", "acme")
B = BudgetKey("session", "s-1")
C = BudgetKey("run", "r-1")
LEASE = 30.0


def new() -> str:
    return uuid.uuid4().hex


def hold(key=A, *, limit=100, ceiling=1.0, need=10, amount=20, elastic=False, period=None):
    return Hold(key, limit, ceiling, need, amount, elastic, period)


@pytest.fixture
def server():
    return shared_server()


@pytest.fixture
def backend(server):
    backend = RedisBackend(server.url, prefix=fresh_prefix())
    yield backend
    backend.close()


def call(backend, *holds, tokens=5, marks=()):
    return backend.settle(backend.reserve(new(), holds or (hold(),), 10, LEASE).reservation, tokens, marks)


def test_a_reserve_made_again_that_is_refused_gives_back_once_what_it_held(backend):
    backend.reserve("call-1", [hold()], 10, LEASE)
    again = backend.reserve("call-1", [hold(limit=200), hold(B, need=101)], 10, LEASE)
    assert again.refused == (B,)
    assert backend.get_states([(A, 100)]) == (BudgetState(A, 100, 0),)


class TestAddress:
    def test_the_environment_names_the_server(self, server, monkeypatch):
        monkeypatch.setenv("REDIS_URL", server.url)
        assert RedisBackend().name == f"redis:127.0.0.1:{server.port}/0"

    def test_without_any_address_there_is_no_backend(self, monkeypatch):
        monkeypatch.delenv("REDIS_URL", raising=False)
        with pytest.raises(ConfigurationError, match="REDIS_URL"):
            RedisBackend()

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("redis://", "redis:localhost:6379/0"),
            ("redis://host", "redis:host:6379/0"),
            ("redis://host:1234/5", "redis:host:1234/5"),
            ("redis://host?db=3", "redis:host:6379/3"),
            ("redis://u:p@host", "redis:host:6379/0"),
            ("redis://:p%40ss@[::1]:1/0", "redis:[::1]:1/0"),
            ("rediss://u:p@host/2?ssl_cert_reqs=none", "redis:host:6379/2"),
            ("unix:///run/redis.sock", "redis:/run/redis.sock/0"),
            ("unix://u:p@/run/redis.sock?db=2", "redis:/run/redis.sock/2"),
            ("redis+sentinel://u:p@a:1,b/main", "redis:sentinel:a:1,b:26379/main/0"),
            ("redis+sentinel://a/main/4?sentinel_password=x", "redis:sentinel:a:26379/main/4"),
            ("redis+cluster://u:p@a:1,b:2,c", "redis:cluster:a:1,b:2,c:6379"),
            ("rediss+cluster://a", "redis:cluster:a:6379"),
        ],
    )
    def test_the_name_tells_the_place_and_no_secret(self, url, name):
        backend = RedisBackend(url)
        assert backend.name == name
        assert repr(backend) == f"RedisBackend({name!r})"

    @pytest.mark.parametrize(
        "url",
        [
            "http://host",
            "host:6379",
            "redis://hunter2:hunter2@host:hunter2",
            "redis://u:hunter2#@host",
            "redis://u:hunter2/@host",
            "redis://host/hunter2",
            "redis://host/0/1",
            "redis://host?hunter2=1",
            "redis://u:hunter2@host?colour=blue",
            "redis://host?socket_timeout=9",
            "redis://host?retry_on_timeout=1",
            "redis://host?sentinel_password=hunter2",
            "redis://u:hunter2@host?ssl_colour=blue",
            "redis+sentinel://u:hunter2@host",
            "redis+sentinel://a,,b/main",
            "redis+cluster://host/1",
            "redis+cluster://host?db=1",
            "redis+tunnel://u:hunter2@host",
            "unix://",
            "redis://u:hunter2@a:1,b:2",
        ],
    )
    def test_one_that_cannot_be_used_is_refused_at_once_without_quoting_it(self, url):
        with pytest.raises(ConfigurationError) as caught:
            RedisBackend(url)
        assert "hunter2" not in "".join(_chain(caught.value)).replace("unknown option, 'hunter2'", "")

    @pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "2", None])
    def test_a_time_out_is_a_positive_number(self, timeout):
        with pytest.raises(ConfigurationError, match="timeout"):
            RedisBackend("redis://host", timeout=timeout)

    @pytest.mark.parametrize("prefix", ["", "a{b", "a}b", "a*", "a?", "[a]", "a\n", "a\\b", b"bytes", None])
    def test_a_prefix_that_would_end_a_hash_tag_or_glob_is_refused(self, prefix):
        with pytest.raises(ConfigurationError, match="prefix"):
            RedisBackend("redis://host", prefix=prefix)

    def test_a_url_and_a_client_are_one_too_many(self):
        import redis

        with pytest.raises(ConfigurationError):
            RedisBackend("redis://host", client=redis.Redis())

    def test_without_the_package_the_error_names_the_extra(self, monkeypatch):
        real = builtins.__import__

        def without_redis(name, *args, **kwargs):
            if name.partition(".")[0] == "redis" and not (args and args[3:4] and args[3]):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without_redis)
        with pytest.raises(ConfigurationError, match=r'pip install "tokencap\[redis\]"'):
            RedisBackend("redis://host")

    def test_the_module_is_imported_without_the_package(self):
        code = "import sys; sys.modules['redis'] = None; import tokencap.backends.redis as it; print(dir(it))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "RedisBackend" in done.stdout, done.stderr


class TestReadyClients:
    def test_one_lends_its_address_and_is_left_alone(self, server):
        import redis

        with redis.Redis(port=server.port, decode_responses=True, socket_timeout=None) as client:
            backend = RedisBackend(client=client, prefix=fresh_prefix())
            assert backend.name == f"redis:localhost:{server.port}/0"
            assert call(backend).states[0].used == 5
            backend.close()
            assert client.ping()
            assert client.connection_pool.connection_kwargs["decode_responses"] is True

    def test_one_is_enough_for_coroutines_too(self, server):
        import redis

        with redis.Redis(port=server.port) as client:
            backend = RedisBackend(client=client, prefix=fresh_prefix())
            assert asyncio.run(acall(backend)).states[0].used == 5

    def test_an_async_one_lends_its_address_for_coroutines(self, server):
        import redis.asyncio

        prefix = fresh_prefix()
        client = redis.asyncio.Redis(port=server.port)
        backend = RedisBackend("redis://127.0.0.1:1", async_client=client, prefix=prefix)
        assert asyncio.run(acall(backend)).states[0].used == 5
        with pytest.raises(BackendError):
            call(backend)

    def test_a_function_makes_one_for_each_loop(self, server):
        import redis.asyncio

        made = []

        def make():
            made.append(redis.asyncio.Redis(port=server.port, decode_responses=True))
            return made[-1]

        backend = RedisBackend(server.url, async_client=make, prefix=fresh_prefix())
        for _ in range(2):
            asyncio.run(acall(backend))
        assert len(made) == 2

    def test_anything_else_is_refused(self):
        with pytest.raises(ConfigurationError):
            RedisBackend(client=object())  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            RedisBackend("redis://host", async_client=object())  # type: ignore[arg-type]


def test_the_coroutines_of_a_loop_share_one_connection(server):
    backend = RedisBackend(f"{server.url}?client_name=tokencap-crowd", prefix=fresh_prefix(), timeout=20.0)
    flavour = backend.as_async()

    async def crowd():
        holds = [hold(ceiling=None)]
        grants = await asyncio.gather(*[flavour.reserve(new(), holds, 10, LEASE) for _ in range(100)])
        settlements = await asyncio.gather(*[flavour.settle(each.reservation, 7) for each in grants])
        assert max(each.states[0].used for each in settlements) == 700
        return server.admin("CLIENT", "LIST").count(b"tokencap-crowd")

    assert asyncio.run(crowd()) == 1
    backend.close()


class TestKeys:
    def test_no_two_budgets_share_one(self):
        parts = ["", "a", "b", ":", "a:b", "b:c", "%", "%3A", "=", "{", "}", "*"]
        parts += ["\0", "é", "e\u0301", "\ud800"]
        parts += ["x" * 10_000, "x" * 10_000 + "y", "é" * 10_000, "x" * 63 + "é" * 100, "x" * 63 + "é" * 101]
        names = {_places("p", BudgetKey(a, b))[1] for a, b in itertools.product(parts, parts)}
        assert len(names) == len(parts) ** 2
        assert len({name for pair in names for name in pair}) == 2 * len(parts) ** 2

    def test_they_are_short_and_hold_nothing_that_globs_or_ends_a_tag(self):
        hostile = BudgetKey("*?[a]\\{x}" * 1000, "\n\r\0 }{" * 1000)
        for name in _places("p", hostile)[1]:
            assert len(name) < 400
            tag = name.partition(b"{")[2].rpartition(b"}")[0]
            assert not set(tag) & set(b"*?[]\\{}\r\n\0 ")

    def test_all_that_belongs_to_a_budget_shares_the_slot_that_redis_computes(self, backend, server):
        prefix = backend._verbs._prefix
        reservation = backend.reserve("call-1", [hold(BudgetKey("d{x}", "é:*"))], 10, LEASE).reservation
        backend.settle(reservation, 5)
        backend.reserve("call-2", [hold(BudgetKey("d{x}", "é:*"))], 10, LEASE)
        found = server.admin("KEYS", f"{prefix}:*")
        assert len(found) == 3
        if server.version() < (7,):
            pytest.skip("Redis 6.2 tells the slots of keys only where it is a cluster")
        slots = {server.admin("CLUSTER", "KEYSLOT", name) for name in found}
        assert slots == {_places(prefix, BudgetKey("d{x}", "é:*"))[0]}

    def test_prefixes_keep_stores_apart(self, server):
        one, two = (RedisBackend(server.url, prefix=fresh_prefix()) for _ in range(2))
        call(one)
        assert two.get_states([(A, 100)]) == (BudgetState(A, 100, 0),)

    def test_a_settled_reservation_leaves_no_more_than_a_note_that_expires(self, backend, server):
        call(backend, hold(A), hold(B))
        prefix = backend._verbs._prefix
        for name in server.admin("KEYS", f"{prefix}:*"):
            if b":e:" in name:
                assert 0 < server.admin("TTL", name) <= 900
            else:
                assert server.admin("TYPE", name) == b"hash"
                assert not [field for field in server.admin("HKEYS", name) if b":" in field]


class TestWrongClocks:
    """The server's clock decides. A client whose own is wrong finds out and asks again."""

    DAY = 86_400.0

    @pytest.fixture(params=["sync", "async"])
    def take(self, request, backend):
        if request.param == "sync":
            yield backend.reserve
            return
        flavour, loop = backend.as_async(), asyncio.new_event_loop()
        yield lambda *args: loop.run_until_complete(flavour.reserve(*args))
        loop.run_until_complete(flavour.aclose())
        loop.close()

    @pytest.mark.parametrize("days", [-3, -0.9, 0.9, 3, 20_000])
    @pytest.mark.parametrize("every", ["minute", "hour", "day", "week", "month"])
    def test_however_wrong_the_window_is_the_servers(self, backend, server, take, every, days):
        period = calendar(every)
        backend._verbs.wall = lambda: time.time() + days * self.DAY
        ends = {period.next_after(time.time())}
        grant = take(new(), [hold(period=period), hold(B)], 10, LEASE)
        ends.add(period.next_after(time.time()))
        assert grant.states[0].resets_at in ends
        assert grant.states[1] == BudgetState(B, 100, 0)
        assert grant.reservation is not None
        states = backend.settle(grant.reservation, 7).states
        assert [each.used + each.previous_used for each in states] == [7, 7]

    def test_it_asks_once_more_and_then_knows(self, backend, server):
        period = calendar("day")
        backend._verbs.wall = lambda: time.time() - 40 * self.DAY
        sent = []
        run = backend._call
        backend._call = lambda script: sent.append(script) or run(script)
        for _ in range(3):
            call(backend, hold(period=period))
        assert len(sent) == 1 + 3 * 2

    def test_machines_that_disagree_share_one_window(self, server):
        prefix, period = fresh_prefix(), calendar("day")
        backends = [RedisBackend(server.url, prefix=prefix) for _ in range(3)]
        for backend, days in zip(backends, (-2, 0, 500)):
            backend._verbs.wall = lambda days=days: time.time() + days * self.DAY
        for _ in range(2):
            for backend in backends:
                call(backend, hold(period=period))
        found = {backend.get_states([Asked(A, 100, period)]) for backend in backends}
        (state,) = found.pop()
        assert not found
        assert state.used + state.previous_used == 30
        for backend in backends:
            backend.close()

    def test_a_clock_that_never_agrees_is_an_error_and_no_endless_loop(self, backend):
        wrong = itertools.count(0, 10 * 86_400)
        backend._verbs.wall = lambda: float(next(wrong))
        with pytest.raises(BackendError, match="clock"):
            backend.reserve(new(), [hold(period=calendar("minute"))], 10, LEASE)

    def test_what_was_lost_before_the_window_began_does_not_land_in_it(self, server):
        now = [1_000_020.0]
        prefix, period = fresh_prefix(), calendar("minute")
        backend = RedisBackend(server.url, prefix=prefix)
        backend._verbs.clock = lambda: now[0]
        lost = backend.reserve(new(), [hold(period=period)], 10, LEASE).reservation
        for name in server.admin("KEYS", f"{prefix}:*"):
            server.admin("DEL", name)
        now[0] += 60
        call(backend, hold(period=period))
        assert backend.settle(lost, 40).states[0].used == 5
        backend.close()


class TestRoundTrips:
    def commands(self, server):
        stats = server.admin("INFO", "commandstats")
        sent = ("evalsha", "eval", "script", "ping", "select", "auth", "hello", "client", "multi", "exec")
        return {
            name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in sent if name != "client"
        }

    @pytest.mark.parametrize("holds", [[hold(A)], [hold(A), hold(B), hold(C, elastic=True)]])
    def test_a_call_takes_two_whatever_its_dimensions(self, backend, server, holds):
        marks = [Mark(each.key, share, 100) for each in holds for share in (0.5, 0.8)]
        call(backend, *holds, marks=marks)
        before = self.commands(server)
        call(backend, *holds, marks=marks)
        after = self.commands(server)
        assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
            "evalsha": 2
        }

    @pytest.mark.parametrize("every", ["minute", "month"])
    def test_windows_cost_none(self, backend, server, every):
        holds = [hold(A, period=calendar(every, "Europe/Berlin")), hold(B, period=rolling(60.0)), hold(C)]
        call(backend, *holds)
        before = self.commands(server)
        call(backend, *holds)
        after = self.commands(server)
        assert after["evalsha"] - before["evalsha"] == 2

    def test_a_connection_that_was_dropped_takes_one_more(self, backend, server):
        call(backend)
        server.admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert call(backend).states[0].used == 10

    def test_a_server_that_forgot_the_scripts_is_told_again(self, backend, server):
        reservation = backend.reserve(new(), [hold()], 10, LEASE).reservation
        server.admin("SCRIPT", "FLUSH")
        assert backend.settle(reservation, 5).states[0].used == 5
        server.admin("SCRIPT", "FLUSH")
        assert asyncio.run(acall(backend)).states[0].used == 10

    @pytest.mark.parametrize("verb", ["reserve", "settle", "pass_marks", "grant", "change"])
    def test_an_attempt_whose_answer_was_lost_does_once_what_it_does_twice(self, backend, verb):
        mark = Mark(A, 0.1, 100)
        reservation = backend.reserve("call-1", [hold()], 10, LEASE).reservation
        flow = {
            "reserve": lambda: backend._verbs.reserve("call-2", [hold()], 10, LEASE),
            "settle": lambda: backend._verbs.settle(reservation, 30, [mark]),
            "pass_marks": lambda: backend._verbs.pass_marks([mark]),
            "grant": lambda: backend._verbs.grant(A, 50, calendar("day")),
            "change": lambda: backend._verbs.change(A, "grant", 50, Who("mo", "here"), None),
        }[verb]()
        sent = next(flow)
        backend._call(sent)
        with pytest.raises(StopIteration) as ended:
            flow.send(backend._call(sent))
        (after,) = backend.get_states([(A, 100)])
        if verb == "reserve":
            assert ended.value.value.reservation is not None
            assert after == BudgetState(A, 100, 0, 40, 2)
        if verb == "settle":
            assert ended.value.value == ((BudgetState(A, 100, 30),), (mark,))
            assert after == BudgetState(A, 100, 30)
        if verb == "pass_marks":
            assert ended.value.value == (mark,)
            assert backend.pass_marks([mark]) == ()
        if verb == "change":
            assert backend.changes() == [ended.value.value]
            assert (after.granted, ended.value.value.limit_before) == (50, 100)
        if verb == "grant":
            assert after.granted == 50
            backend.grant(A, 50, calendar("day"))
            assert backend.get_states([(A, 100)])[0].granted == 100


class TestNumbers:
    @pytest.mark.parametrize("amount", [2**31, 2**50 + 1, UNLIMITED - 1, UNLIMITED])
    def test_every_digit_survives(self, backend, amount):
        free = Hold(A, UNLIMITED, None, 0, amount)
        grant = backend.reserve(new(), [free], amount, LEASE)
        assert grant.reservation.holds[0].amount == amount
        assert backend.get_states([(A, UNLIMITED)]) == (BudgetState(A, UNLIMITED, 0, amount, 1),)
        assert backend.settle(grant.reservation, amount).states == (BudgetState(A, UNLIMITED, amount),)

    def test_shares_are_rounded_as_everywhere(self, backend):
        for limit, share in itertools.product([7, 100, 999, 12_345_679], [0.29, 0.07, 0.57, 1 / 3, 0.8, 1.1]):
            key = BudgetKey("limit", f"{limit}-{share}")
            top = share_floor(limit, share)
            if top < 1:
                continue
            assert backend.reserve(new(), [Hold(key, limit, share, top + 1, 0)], 0, LEASE).refused == (key,)
            assert backend.reserve(new(), [Hold(key, limit, share, top, 0)], 0, LEASE).reservation
            reach = share_ceil(limit, share)
            mark = Mark(key, share, limit)
            assert call(backend, Hold(key, limit, None, 0, 0), tokens=reach - 1, marks=[mark]).passed == ()
            assert call(backend, Hold(key, limit, None, 0, 0), tokens=1, marks=[mark]).passed == (mark,)


INSIDE = ("evalsha", "time", "hmget", "hset", "hdel", "del", "unlink", "zrem", "zrangebyscore")


class TestReset:
    def test_costs_the_same_after_many_calls(self, backend, server):
        def cost():
            server.admin("CONFIG", "RESETSTAT")
            backend.reset(A)
            stats = server.admin("INFO", "commandstats")
            return {name: each["calls"] for name, each in stats.items() if name[8:] in INSIDE}

        call(backend)
        backend.reset(A)
        few = cost()
        for n in range(300):
            backend.reserve(f"call-{n}", [hold(limit=UNLIMITED, ceiling=None)], 10, LEASE)
        assert cost() == few

    def test_what_is_left_of_another_epoch_goes_with_its_lease(self, backend, server):
        clock = [1_000_000.0]
        backend._verbs.clock = lambda: clock[0]
        for n in range(1200):
            backend.reserve(f"call-{n}", [hold(limit=UNLIMITED, ceiling=None)], 10, LEASE)
        backend.reset(A)
        call(backend)
        for seconds in (LEASE + 1, 86_401.0):
            clock[0] += seconds
            backend.reserve("one more", [hold()], 10, LEASE)
            clock[0] += LEASE + 1
            backend.get_states([(A, 100)])
        (name,) = server.admin("KEYS", f"{backend._verbs._prefix}:*:c")
        assert len(server.admin("HKEYS", name)) < 20


class TestExpiry:
    def test_many_dead_are_found_by_one_look(self, backend):
        clock = [1_000_000.0]
        backend._verbs.clock = lambda: clock[0]
        for n in range(1300):
            backend.reserve(f"call-{n}", [hold(limit=UNLIMITED, ceiling=None)], 10, LEASE)
        clock[0] += LEASE
        assert backend.get_states([(A, 100)]) == (BudgetState(A, 100, 13_000, 0, 0, 13_000),)

    def test_a_settlement_repeated_after_its_note_expired_is_not_booked(self, backend, server):
        clock = [1_000_000.0]
        backend._verbs.clock = lambda: clock[0]
        reservation = backend.reserve("call-1", [hold()], 10, LEASE).reservation
        backend.settle(reservation, 40)
        (note,) = server.admin("KEYS", f"{backend._verbs._prefix}:*:e:*")
        server.admin("DEL", note)
        clock[0] += 901
        assert backend.settle(reservation, 40) == ((), ())
        assert backend.get_states([(A, 100)])[0].used == 40

    def test_renewing_needs_no_more_than_the_ids_in_any_backend_of_the_process(self, backend, server):
        backend.reserve("call-1", [hold(A), hold(B)], 10, LEASE)
        other = RedisBackend(server.url, prefix=backend._verbs._prefix)
        assert other.renew(["call-1", "call-2"], 60.0) == {"call-2"}

    def test_what_nobody_settles_is_not_remembered_for_ever(self):
        verbs = Verbs("nowhere", fresh_prefix(), clustered=False)
        for n in range(5000):
            verbs._known.remember(f"call-{n}", (A,), -1.0)
        assert len(verbs._known) <= 1025


async def acall(backend, *holds, tokens=5):
    store = backend.as_async()
    grant = await store.reserve(new(), holds or (hold(),), 10, LEASE)
    return await store.settle(grant.reservation, tokens)


class TestEventLoops:
    def test_several_in_a_row_leave_nothing_behind(self, backend):
        for n in range(1, 4):
            assert asyncio.run(acall(backend)).states[0].used == 5 * n
            gc.collect()
            assert backend.as_async()._loops == {}

    def test_one_that_was_closed_by_hand_is_forgotten(self, backend):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(acall(backend))
        loop.run_until_complete(backend.as_async().aclose())
        loop.close()
        assert asyncio.run(acall(backend)).states[0].used == 10
        assert backend.as_async()._loops == {}

    def test_each_thread_may_have_its_own(self, backend):
        threads = [threading.Thread(target=lambda: asyncio.run(acall(backend))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert backend.get_states([(A, 100)])[0].used == 20

    def test_hundreds_of_tasks_share_a_few_connections(self, backend, server):
        async def many():
            wide = hold(limit=UNLIMITED)
            await asyncio.gather(*[acall(backend, wide) for _ in range(300)])
            return server.admin("INFO", "clients")["connected_clients"]

        before = server.admin("INFO", "clients")["connected_clients"]
        assert asyncio.run(many()) <= before + 33
        assert backend.get_states([(A, UNLIMITED)])[0] == BudgetState(A, UNLIMITED, 1500)

    def test_a_closed_one_opens_again_in_the_same_loop(self, backend):
        async def twice():
            await acall(backend)
            await backend.as_async().aclose()
            await acall(backend)
            backend.close()
            await asyncio.sleep(0.01)
            return await acall(backend)

        assert asyncio.run(twice()).states[0].used == 15

    def test_a_cancelled_reserve_holds_nothing_in_the_end(self, backend):
        async def cancelled():
            store = backend.as_async()
            await store.get_states([(A, 100)])
            task = asyncio.create_task(store.reserve(new(), [hold()], 10, LEASE))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await store.get_states([(A, 100)])
            await asyncio.sleep(0.6)
            await store.get_states([(A, 100)])
            return await store.get_states([(A, 100)])

        assert asyncio.run(cancelled()) == (BudgetState(A, 100, 0),)

    def test_without_asyncio_a_verb_is_performed_all_the_same(self, backend):
        coroutine = backend.as_async().get_states([(A, 100)])
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)
        assert ended.value.value == (BudgetState(A, 100, 0),)


class TestForksAndThreads:
    @forks
    def test_parent_and_child_go_on_with_connections_of_their_own(self, backend):
        wide = hold(limit=UNLIMITED)
        reservation = backend.reserve("call-1", [wide], 10, LEASE).reservation

        def child():
            for _ in range(50):
                call(backend, wide)
            os._exit(0 if backend.renew([reservation.id], LEASE) == set() else 1)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        for _ in range(50):
            call(backend, wide)
        process.join(10)
        assert process.exitcode == 0
        backend.settle(reservation, 7)
        assert backend.get_states([(A, UNLIMITED)]) == (BudgetState(A, UNLIMITED, 507),)

    def test_threads_count_exactly(self, backend):
        def work():
            for _ in range(25):
                call(backend, hold(limit=UNLIMITED))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert backend.get_states([(A, UNLIMITED)]) == (BudgetState(A, UNLIMITED, 2000),)

    def test_a_budget_worth_seven_serves_seven(self, backend):
        served = []

        def work():
            grant = backend.reserve(new(), [hold(limit=750, need=100, amount=100)], 10, LEASE)
            if grant.reservation:
                served.append(grant.reservation)
                time.sleep(0.01)
                backend.settle(grant.reservation, 100)

        threads = [threading.Thread(target=work) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(served) == 7


def _chain(error):
    while error is not None:
        yield str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
