"""Budgets in different slots of a cluster: all or nothing, whatever happens between two slots."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid

import pytest

from backends.redis_servers import PATIENCE, Cluster, fresh_prefix, shared_cluster
from tokencap.backends import _redis_topology as topology
from tokencap.backends._redis_scripts import _places
from tokencap.backends.redis import RedisBackend
from tokencap.budget import UNLIMITED, BudgetKey, BudgetState, Hold, Mark
from tokencap.errors import BackendError

pytestmark = pytest.mark.service

LEASE = 30.0


def new() -> str:
    return uuid.uuid4().hex


def node_of(key: BudgetKey) -> int:
    """Which of the three masters has the slot of `key`."""
    return _places("p", key)[0] * 3 // 16384


def on_node(node: int, name: str = "") -> BudgetKey:
    """A key of its own whose slot is with that master."""
    name = name or new()
    return next(key for n in range(10_000) if node_of(key := BudgetKey("tenant", f"{name}-{n}")) == node)


def hold(key, *, limit=100, ceiling=1.0, need=10, amount=20, elastic=False):
    return Hold(key, limit, ceiling, need, amount, elastic)


@pytest.fixture
def cluster():
    return shared_cluster()


@pytest.fixture
def backend(cluster):
    backend = RedisBackend(cluster.url, prefix=fresh_prefix())
    yield backend
    backend.close()


@pytest.fixture
def keys():
    """One key on each master."""
    return [on_node(node) for node in range(3)]


@pytest.fixture(scope="module")
def own():
    """A cluster that these tests may ill-treat and leave running."""
    cluster = Cluster()
    yield cluster
    cluster.remove()


def states(backend, keys, limit=100):
    return backend.get_states([(key, limit) for key in keys])


def spend(backend, key, tokens, limit=100):
    grant = backend.reserve(new(), [hold(key, limit=limit, ceiling=None, need=0, amount=0)], 0, LEASE)
    backend.settle(grant.reservation, tokens)


class Interrupted:
    """A backend's way to the servers, with something done before the n-th script of one kind."""

    def __init__(self, backend, name, n, action):
        self._call = backend._call
        self._name, self._left, self._action = name, n, action
        backend._call = self

    def __call__(self, call):
        if f"ARGV: clock, attempt, id, {self._name}" in call.script.text:
            self._left -= 1
            if self._left == 0:
                self._action()
        return self._call(call)


def raise_(error):
    raise error


class TestSeveralSlots:
    def test_a_refusal_by_the_last_holds_nothing_on_the_first(self, backend, keys):
        spend(backend, keys[2], 95)
        grant = backend.reserve(new(), [hold(key) for key in keys], 10, LEASE)
        assert grant.reservation is None
        assert grant.refused == (keys[2],)
        assert grant.states == states(backend, keys)
        assert [each.reserved for each in states(backend, keys)] == [0, 0, 0]

    def test_a_refusal_by_the_first_still_names_the_others(self, backend, keys):
        spend(backend, keys[0], 95)
        spend(backend, keys[2], 99)
        grant = backend.reserve(new(), [hold(key) for key in keys], 10, LEASE)
        assert grant.refused == (keys[0], keys[2])
        assert [each.used for each in grant.states] == [95, 0, 99]

    @pytest.mark.parametrize("tight", [0, 1, 2])
    def test_elastic_holds_are_the_same_everywhere_wherever_the_tightest_is(self, backend, keys, tight):
        spend(backend, keys[tight], 60)
        holds = [hold(key, amount=500, elastic=True) for key in keys]
        reservation = backend.reserve(new(), holds, 10, LEASE).reservation
        assert [held.amount for held in reservation.holds] == [40, 40, 40]
        assert [each.reserved for each in states(backend, keys)] == [40, 40, 40]
        backend.settle(reservation, 7)
        assert [each.reserved for each in states(backend, keys)] == [0, 0, 0]

    def test_an_elastic_hold_never_falls_below_its_own_need(self, backend, keys):
        spend(backend, keys[1], 90)
        holds = [hold(keys[n], need=need, amount=500, elastic=True) for n, need in ((0, 30), (1, 5))]
        reservation = backend.reserve(new(), holds, 10, LEASE).reservation
        assert [held.amount for held in reservation.holds] == [30, 10]
        assert [each.reserved for each in states(backend, keys[:2])] == [30, 10]

    def test_settling_books_on_all_and_names_marks_in_their_order(self, backend, keys):
        reservation = backend.reserve(new(), [hold(key) for key in keys], 10, LEASE).reservation
        marks = [Mark(keys[2], 0.5, 100), Mark(keys[0], 0.5, 100), Mark(keys[1], 0.9, 100)]
        settlement = backend.settle(reservation, 60, marks)
        assert settlement == (tuple(BudgetState(key, 100, 60) for key in keys), tuple(marks[:2]))

    def test_threads_and_tasks_count_exactly(self, backend, keys):
        holds = [hold(key, limit=UNLIMITED) for key in keys]

        def work():
            for _ in range(20):
                backend.settle(backend.reserve(new(), holds, 10, LEASE).reservation, 5)

        async def tasks():
            store = backend.as_async()

            async def one():
                grant = await store.reserve(new(), holds, 10, LEASE)
                await store.settle(grant.reservation, 5)

            await asyncio.gather(*[one() for _ in range(50)])

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        asyncio.run(tasks())
        for thread in threads:
            thread.join()
        assert states(backend, keys, UNLIMITED) == tuple(BudgetState(key, UNLIMITED, 850) for key in keys)

    def test_a_budget_worth_seven_serves_no_more(self, backend, keys):
        served = []

        def work():
            holds = [hold(key, limit=750, need=100, amount=100) for key in keys]
            grant = backend.reserve(new(), holds, 10, LEASE)
            if grant.reservation:
                served.append(grant.reservation)

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Two that meet may each be refused by what the other is about to give back, so perhaps fewer.
        assert 1 <= len(served) <= 7
        assert [each.reserved for each in states(backend, keys, 750)] == [100 * len(served)] * 3


class TestBetweenTwoSlots:
    def test_an_error_takes_back_what_was_held(self, backend, keys):
        Interrupted(backend, "charge", 3, lambda: raise_(BackendError("gone")))
        with pytest.raises(BackendError):
            backend.reserve(new(), [hold(key) for key in keys], 10, LEASE)
        assert [each.reserved for each in states(backend, keys)] == [0, 0, 0]

    def test_a_death_leaves_holds_that_expire_and_are_charged_once(self, backend, keys):
        states(backend, keys)
        Interrupted(backend, "charge", 3, lambda: raise_(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            backend.reserve("call", [hold(key) for key in keys], 10, 0.3)
        backend._verbs._doubts.clear()
        assert [each.reserved for each in states(backend, keys)] == [20, 20, 0]
        time.sleep(0.35)
        assert [each.expired for each in states(backend, keys)] == [10, 10, 0]

    def test_the_same_call_again_completes_what_was_half_made(self, backend, keys):
        Interrupted(backend, "charge", 3, lambda: raise_(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            backend.reserve("call", [hold(key) for key in keys], 10, LEASE)
        reservation = backend.reserve("call", [hold(key) for key in keys], 10, LEASE).reservation
        assert [each.reserved for each in states(backend, keys)] == [20, 20, 20]
        backend.settle(reservation, 5)
        assert states(backend, keys) == tuple(BudgetState(key, 100, 5) for key in keys)

    def test_the_same_call_again_when_refused_holds_nothing_any_more(self, backend, keys):
        Interrupted(backend, "charge", 3, lambda: raise_(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            backend.reserve("call", [hold(key) for key in keys], 10, LEASE)
        spend(backend, keys[2], 95)
        assert backend.reserve("call", [hold(key) for key in keys], 10, LEASE).refused == (keys[2],)
        assert [each.reserved for each in states(backend, keys)] == [0, 0, 0]

    def test_a_settlement_that_failed_half_way_is_completed_by_the_same_again(self, backend, keys):
        reservation = backend.reserve("call", [hold(key) for key in keys], 10, LEASE).reservation
        Interrupted(backend, "tokens", 2, lambda: raise_(BackendError("gone")))
        with pytest.raises(BackendError):
            backend.settle(reservation, 30)
        assert len(backend.settle(reservation, 30).states) == 3
        assert states(backend, keys) == tuple(BudgetState(key, 100, 30) for key in keys)
        assert backend.settle(reservation, 30) == ((), ())


class TestTopology:
    def test_a_slot_that_moved_is_followed(self, backend, cluster):
        key = on_node(0)
        backend.get_states([(key, 100)])
        asyncio.run(backend.as_async().get_states([(key, 100)]))
        slot = _places("p", key)[0]
        target = cluster.nodes[1].admin("CLUSTER", "MYID")
        for node in (cluster.nodes[1], cluster.nodes[0], cluster.nodes[2]):
            node.admin("CLUSTER", "SETSLOT", slot, "NODE", target)
        spend(backend, key, 5)
        assert asyncio.run(backend.as_async().get_states([(key, 100)]))[0].used == 5
        assert cluster.nodes[1].admin("CLUSTER", "COUNTKEYSINSLOT", slot) >= 1

    def test_a_slot_on_the_move_fails_its_calls_in_time_until_it_has_arrived(self, cluster):
        prefix = fresh_prefix()
        backend = RedisBackend(cluster.url, prefix=prefix, timeout=0.5)
        key = on_node(2)
        slot = _places("p", key)[0]
        source, target = cluster.nodes[2], cluster.nodes[0]
        target.admin("CLUSTER", "SETSLOT", slot, "IMPORTING", source.admin("CLUSTER", "MYID"))
        source.admin("CLUSTER", "SETSLOT", slot, "MIGRATING", target.admin("CLUSTER", "MYID"))
        try:
            started = time.monotonic()
            with pytest.raises(BackendError):
                backend.reserve("call", [hold(key)], 10, LEASE)
            assert time.monotonic() - started < 2.5
            backend.close()
            # One key can be asked for at its destination.
            backend = RedisBackend(cluster.url, prefix=prefix)
            sent = next(backend._verbs.set_limit(key, 50))
            topology.allow(PATIENCE)
            assert backend._call(sent._replace(keys=sent.keys[:1])) == b""
        finally:
            for node in (target, source, cluster.nodes[1]):
                node.admin("CLUSTER", "SETSLOT", slot, "NODE", target.admin("CLUSTER", "MYID"))
        reservation = backend.reserve("call", [hold(key, limit=70)], 10, LEASE).reservation
        assert backend.settle(reservation, 5).states == (BudgetState(key, 50, 5),)
        backend.close()

    def test_one_reachable_node_is_enough_to_find_the_others(self, cluster, keys):
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[1].port}"
        backend = RedisBackend(url, prefix=fresh_prefix())
        assert [each.used for each in states(backend, keys)] == [0, 0, 0]
        assert [each.used for each in asyncio.run(backend.as_async().get_states([(keys[0], 1)]))] == [0]
        backend.close()

    def test_a_ready_cluster_client_lends_its_nodes(self, cluster, keys):
        from redis.cluster import RedisCluster

        with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
            backend = RedisBackend(client=client, prefix=fresh_prefix())
            assert backend.name.startswith("redis:cluster:127.0.0.1:")
            spend(backend, keys[0], 5)
            assert asyncio.run(backend.as_async().get_states([(keys[0], 100)]))[0].used == 5
            backend.close()


class TestSilentNodes:
    def test_a_node_that_answers_nothing_fails_its_calls_in_time_and_gives_back_the_rest(self, own, keys):
        backend = RedisBackend(own.url, prefix=fresh_prefix(), timeout=0.6)
        holds = [hold(key) for key in keys]
        backend.reserve("first", holds, 10, LEASE)
        with own.nodes[2].stopped():
            started = time.monotonic()
            with pytest.raises(BackendError):
                backend.reserve("call", holds, 10, LEASE)
            with pytest.raises(BackendError):
                asyncio.run(backend.as_async().reserve("acall", holds, 10, LEASE))
            assert time.monotonic() - started < 2 * 0.6 + 3
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if [each.reserved for each in states(backend, keys)] == [20, 20, 20]:
                    break
            except BackendError:
                pass
            time.sleep(0.1)
        assert [each.reserved for each in states(backend, keys)] == [20, 20, 20]
        backend.close()

    def test_a_cluster_that_is_down_is_found_again(self, own, keys):
        backend = RedisBackend(own.url, prefix=fresh_prefix(), timeout=0.6)
        spend(backend, keys[0], 5)
        for node in own.nodes:
            node.stop()
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(BackendError):
                states(backend, keys)
        with pytest.raises(BackendError):
            asyncio.run(backend.as_async().get_states([(keys[0], 100)]))
        assert time.monotonic() - started < 3 * 0.6 + 4
        for node in own.nodes:
            node.start()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert states(backend, keys)[0].key == keys[0]
                break
            except BackendError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        backend.close()
