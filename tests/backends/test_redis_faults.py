"""A Redis that is slow, gone, full, flushed, demoted or somebody else's: bounded errors, right books."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import uuid

import pytest
import redis

from backends.redis_servers import Server, Watched, fresh_prefix, until
from tokencap._audit import Who
from tokencap._entry import Ahead
from tokencap.backends.redis import RedisBackend
from tokencap.budget import BudgetKey, BudgetState, Hold, Mark
from tokencap.errors import BackendError

pytestmark = pytest.mark.service

A = BudgetKey("tenant", "acme")
B = BudgetKey("session", "s-1")
LEASE = 30.0
TIMEOUT = 0.4


def new() -> str:
    return uuid.uuid4().hex


def hold(key=A, *, limit=100, ceiling=1.0, need=10, amount=20, elastic=False):
    return Hold(key, limit, ceiling, need, amount, elastic)


@pytest.fixture(scope="module")
def own():
    """A server that these tests may ill-treat and leave running."""
    server = Server()
    yield server
    server.remove()


def flavours(backend):
    """The reserve of both flavours, as functions."""

    def reserve(id="call"):
        return backend.reserve(id, [hold()], 10, LEASE)

    def areserve(id="acall"):
        return asyncio.run(backend.as_async().reserve(id, [hold()], 10, LEASE))

    return [reserve, areserve]


@pytest.fixture(params=[0, 1], ids=["sync", "async"])
def reserve(request, own):
    own.admin("FLUSHALL")
    backend = RedisBackend(own.url, prefix=fresh_prefix(), timeout=TIMEOUT)
    verb = flavours(backend)[request.param]
    verb.backend = backend
    verb("first")
    yield verb
    backend.close()


def fails(step, within=TIMEOUT + 2.0):
    """Perform `step`, which must raise BackendError in time, on a busy machine too; return the error."""
    started = time.monotonic()
    with pytest.raises(BackendError) as caught:
        step()
    assert time.monotonic() - started < within
    return caught.value


class TestUnreachable:
    def test_one_that_answers_nothing_fails_the_call_in_time_and_recovers(self, own, reserve):
        with own.stopped():
            assert reserve.backend.name in str(fails(reserve))
        assert reserve("next").reservation is not None

    def test_one_that_is_down_fails_the_call_and_is_found_again(self, own, reserve):
        own.stop()
        try:
            assert str(own.port) in str(fails(reserve))
        finally:
            own.start()
        assert reserve("next").reservation is not None

    def test_a_restart_between_two_calls_goes_unnoticed(self, own, reserve):
        own.restart()
        assert reserve("next").reservation is not None

    def test_nobody_at_the_address(self):
        backend = RedisBackend("redis://127.0.0.1:1", timeout=TIMEOUT)
        for step in flavours(backend):
            error = fails(step)
            # What led to it is what went wrong, and that once.
            assert isinstance(error.__cause__, redis.ConnectionError)
            assert isinstance(error.__cause__.__context__, ConnectionRefusedError)
            assert error.__cause__.__context__.__context__ is None

    def test_a_host_that_does_not_exist(self):
        backend = RedisBackend("redis://no-such-host.invalid", timeout=TIMEOUT)
        for step in flavours(backend):
            fails(step, within=10)

    def test_somebody_who_is_not_redis(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def greet():
                while True:
                    try:
                        peer, _ = listener.accept()
                    except OSError:
                        return
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    peer.close()

            thread = threading.Thread(target=greet)
            thread.start()
            backend = RedisBackend(f"redis://127.0.0.1:{listener.getsockname()[1]}", timeout=TIMEOUT)
            for step in flavours(backend):
                fails(step)
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    def test_the_event_loop_runs_on_while_the_server_is_silent(self, own, reserve):
        async def beside():
            task = asyncio.ensure_future(reserve.backend.as_async().reserve(new(), [hold()], 10, LEASE))
            worst, last = 0.0, time.monotonic()
            while not task.done():
                await asyncio.sleep(0.002)
                worst, last = max(worst, time.monotonic() - last), time.monotonic()
            return worst, task.exception()

        with own.stopped():
            worst, error = asyncio.run(beside())
        assert isinstance(error, BackendError)
        assert worst < 0.8 * TIMEOUT

    def test_those_who_queue_behind_a_silent_server_fail_with_those_in_front(self, own, reserve):
        flavour = reserve.backend.as_async()

        async def crowd():
            calls = [flavour.reserve(new(), [hold()], 10, LEASE) for _ in range(320)]
            return await asyncio.gather(*calls, return_exceptions=True)

        started = time.monotonic()
        with own.stopped():
            errors = asyncio.run(crowd())
        # A tenth of them can ask at a time.
        assert time.monotonic() - started < 5 * TIMEOUT
        assert {type(error) for error in errors} == {BackendError}

    def test_a_crowd_in_a_busy_event_loop_is_not_taken_for_a_silent_server(self, own):
        backend = RedisBackend(own.url, prefix=fresh_prefix(), timeout=1.0)
        flavour = backend.as_async()

        async def one():
            grant = await flavour.reserve(new(), [hold(ceiling=None)], 10, LEASE)
            time.sleep(0.005)  # noqa: ASYNC251  # longer than the time-out, for all of them
            return grant.reservation is not None

        async def crowd():
            return await asyncio.gather(*[one() for _ in range(300)])

        assert asyncio.run(crowd()) == [True] * 300
        backend.close()

    def test_a_connection_in_use_when_all_are_released_is_released_after_it(self, own):
        url = own.url + "?client_name=tokencap-in-use"
        backend = RedisBackend(url, prefix=fresh_prefix(), timeout=5.0)
        flavour = backend.as_async()

        def connections():
            return own.admin("CLIENT", "LIST").count(b"tokencap-in-use")

        async def story():
            await flavour.get_states([(A, 100)])
            with own.stopped():
                late = asyncio.ensure_future(flavour.get_states([(A, 100)]))
                await asyncio.sleep(0.05)
                await flavour.aclose()
            await late
            await asyncio.to_thread(until, lambda: connections() == 0)

        asyncio.run(story())

    def test_a_pause_shorter_than_the_time_out_is_waited_for(self, own, reserve):
        own.admin("CLIENT", "PAUSE", int(TIMEOUT * 500))
        assert reserve("next").reservation is not None


class TestUnansweredReserves:
    def test_what_they_hold_is_taken_back(self, own, reserve):
        backend = reserve.backend
        with own.stopped():
            fails(lambda: reserve("never made"))
        deadline = time.monotonic() + 0.8
        while time.monotonic() < deadline:
            backend.get_states([(A, 100)])
            time.sleep(0.05)
        until(lambda: backend.get_states([(A, 100)]) == (BudgetState(A, 100, 0, 20, 1),))

    def test_but_not_when_the_same_call_asked_again_and_was_admitted(self, own, reserve):
        backend = reserve.backend
        with own.stopped():
            fails(lambda: reserve("made after all"))
        granted = reserve("made after all").reservation
        deadline = time.monotonic() + 0.8
        while time.monotonic() < deadline:
            assert backend.get_states([(A, 100)]) == (BudgetState(A, 100, 0, 40, 2),)
            time.sleep(0.05)
        assert backend.settle(granted, 7).states == (BudgetState(A, 100, 7, 20, 1),)


class TestLostData:
    def test_a_flush_in_mid_call_loses_no_token(self, own, reserve):
        reservation = reserve("call").reservation
        own.admin("FLUSHALL")
        settlement = reserve.backend.settle(reservation, 80, [Mark(A, 0.8, 100)])
        assert settlement == ((BudgetState(A, 100, 80),), (Mark(A, 0.8, 100),))
        assert reserve.backend.settle(reservation, 80) == ((), ())

    def test_limits_travel_with_the_next_call(self, own, reserve):
        own.admin("FLUSHALL")
        granted = reserve.backend.reserve(new(), [hold(limit=50)], 10, LEASE)
        assert granted.states == (BudgetState(A, 50, 0),)
        assert reserve.backend.reserve(new(), [hold(limit=50, need=31)], 10, LEASE).refused == (A,)

    def test_thresholds_travel_with_the_next_call(self, own, reserve):
        ahead = hold()._replace(thresholds="0.5=WARN")
        for _ in range(2):
            reserve.backend.reserve(new(), [ahead], 10, LEASE)
            assert reserve.backend.budgets()[0].thresholds == (Ahead(0.5, ("WARN",)),)
            own.admin("FLUSHALL")

    def test_a_change_that_cannot_be_noted_is_not_made(self, own, reserve):
        (name,) = [each for each in own.admin("KEYS", "*") if each.endswith(b":c")]
        own.admin("SET", name[:-1] + b"h", "not a list")
        for action, tokens in (("limit", 500), ("grant", 500), ("reset", None)):
            with pytest.raises(BackendError):
                reserve.backend.change(A, action, tokens, Who("mo", "host-1"))
        assert reserve.backend.get_states([(A, 100)]) == (BudgetState(A, 100, 0, 20, 1),)

    def test_what_was_lost_is_not_alive(self, own, reserve):
        reserve("call")
        own.admin("FLUSHALL")
        assert reserve.backend.renew(["call"], LEASE) == {"call"}

    def test_a_reserve_that_only_the_old_master_knew_is_booked_once(self, own, reserve):
        backend = reserve.backend
        reservation = reserve("call").reservation
        (name,) = [each for each in own.admin("KEYS", "*") if each.endswith(b":c")]
        own.admin("HDEL", name, "h:call")
        own.admin("HMSET", name, "r", "20", "c", "1")
        assert backend.settle(reservation, 30).states == (BudgetState(A, 100, 30, 20, 1),)
        assert backend.settle(reservation, 30) == ((), ())

    def test_a_reset_after_a_flush_is_respected(self, own, reserve):
        reservation = reserve("call").reservation
        own.admin("FLUSHALL")
        reserve.backend.reset(A)
        reserve.backend.settle(reservation, 80)
        assert reserve.backend.get_states([(A, 100)])[0].used == 0


class TestRefusingServers:
    def test_a_full_one_fails_the_reserve_and_takes_the_settlement(self, own, reserve):
        backend = reserve.backend
        reservation = backend.reserve("call", [hold()], 10, LEASE).reservation
        own.admin("CONFIG", "SET", "maxmemory", "1")
        try:
            assert "memory" in str(fails(reserve))
            assert backend.settle(reservation, 7).states[0].used == 7
        finally:
            own.admin("CONFIG", "SET", "maxmemory", "0")
        assert backend.get_states([(A, 100)]) == (BudgetState(A, 100, 7, 20, 1),)
        assert reserve("next").reservation is not None

    def test_a_replica_fails_the_call_until_it_is_a_master_again(self, own, reserve):
        own.admin("REPLICAOF", "127.0.0.1", 1)
        try:
            fails(reserve)
        finally:
            own.admin("REPLICAOF", "NO", "ONE")
        assert reserve("next").reservation is not None

    def test_a_key_of_another_type_fails_the_call_and_changes_nothing(self, own, reserve):
        (name,) = [each for each in own.admin("KEYS", "*") if each.endswith(b":c")]
        own.admin("SET", name, "mine")
        assert "WRONGTYPE" in str(fails(reserve))
        assert own.admin("GET", name) == b"mine"

    def test_the_password_is_in_no_message_and_no_repr(self):
        server = Server("--requirepass", "correct horse")
        try:
            backend = RedisBackend(f"redis://:hunter2@127.0.0.1:{server.port}", timeout=TIMEOUT)
            for step in flavours(backend):
                error = fails(step)
                while error is not None:
                    assert "hunter2" not in f"{error} {error!r}"
                    error = error.__cause__ or error.__context__
            assert "hunter2" not in f"{backend!r} {backend._topology!r} {backend.name}"
            right = RedisBackend(f"redis://:correct%20horse@127.0.0.1:{server.port}", timeout=TIMEOUT)
            for step in flavours(right):
                assert step().reservation is not None
            right.close()
        finally:
            server.remove()


class TestFailover:
    def test_the_promoted_replica_is_found_and_knows_what_was_spent(self):
        group = Watched()
        try:
            backend = RedisBackend(group.url, prefix=fresh_prefix(), timeout=TIMEOUT)
            reservation = backend.reserve("call", [hold()], 10, LEASE).reservation
            asyncio.run(backend.as_async().get_states([(A, 100)]))
            backend.settle(backend.reserve("before", [hold()], 10, LEASE).reservation, 25)
            until(lambda: group.replica.admin("INFO", "replication")["slave_repl_offset"] >= group.offset())
            group.master.stop()
            fails(lambda: backend.get_states([(A, 100)]))

            def found():
                try:
                    return backend.get_states([(A, 100)])
                except BackendError:
                    return None

            assert until(found) == (BudgetState(A, 100, 25, 20, 1),)
            assert until(lambda: _settled(backend, reservation)) == (BudgetState(A, 100, 30),)
            assert asyncio.run(backend.as_async().get_states([(A, 100)])) == (BudgetState(A, 100, 30),)
            backend.close()
        finally:
            group.remove()


def _settled(backend, reservation):
    try:
        return backend.settle(reservation, 5).states
    except BackendError:
        return None
