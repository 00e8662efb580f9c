"""What the verbs say to Redis: keys, scripts, and each verb as a flow of script calls.

Performs no I/O. A flow yields `Call`s, is sent the answer of each, and returns what the verb returns;
who performs the calls, and whether that blocks, is decided in `redis` and `_redis_async`.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import time
import weakref
from binascii import crc_hqx
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote_to_bytes

from .._audit import GRANT, LIMIT, RESET, Change, Who
from .._entry import Entry, Retention
from .._fork import ForkAware, survive_forks
from .._periods import Period, Rolling
from ..budget import BudgetKey, BudgetState, Grant, Held, Hold, Mark, Reservation, Settlement
from ..errors import BackendError
from ._redis_rows import book_args, read_change, record_args, spell_who
from ._rules import Question, check_change, check_holds, in_full, resets_at

__all__ = ["Call", "Flow", "Script", "Verbs", "name_of_key", "slot_of"]

T = TypeVar("T")

_SLOTS = 16384
# A part longer than this is shortened to its beginning and a digest, so that keys stay small.
_LONGEST_PART = 128
# How long after the store answers again a hold that may have been made unseen is taken back: what
# the server had received before it stopped is executed by then.
_DOUBT_SECONDS = 0.5
_MOST_DOUBTS = 1000
_RENEW_BATCH = 500
_MOST_NAMED = 10_000
_RETENTION = Retention(days=30, rows=100_000)
_CLOCK_ATTEMPTS = 5


# Defining a function costs a script about as much as using it.
_PIECES = {
    "reserve": ("_ledger", "_window", "_sweep", "_state"),
    "settle": ("_ledger", "_window", "_sweep", "_state", "_pass"),
    "record": ("_ledger",),
    "marks": ("_pass",),
    "states": ("_ledger", "_window", "_sweep", "_state"),
    "change": ("_window",),
}


class Script(NamedTuple):
    """A Lua script and the SHA1 by which the server knows it."""

    sha: str
    text: str


class Call(NamedTuple):
    """One script to run on keys that share a slot."""

    slot: int
    """0 where there is no cluster."""
    script: Script
    keys: tuple[bytes, ...]
    args: list[str | bytes]


Flow = Generator[Call, bytes, T]


def _read(name: str) -> str:
    return (files("tokencap.backends") / "_lua" / name).read_text(encoding="utf-8")


@cache
def _script(name: str, windows: bool = False) -> Script:
    pieces = ["_prelude", *_PIECES.get(name, ()), name]
    if "_window" in pieces and not windows:
        pieces[pieces.index("_window")] = "_still"
    text = "".join([_read(f"{piece}.lua") for piece in pieces])
    return Script(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), text)


def _encode(part: str) -> str:
    """Spell `part` in letters, digits and `-._~%=`: nothing that separates, globs or ends a hash tag."""
    raw = part.encode("utf-8", "surrogatepass")
    text = quote(raw, safe="")
    if len(text) <= _LONGEST_PART:
        return text
    # quote() never writes "=", so that no short part looks like this.
    return f"{text[:64].rpartition('%')[0] or text[:64]}={hashlib.sha256(raw).hexdigest()}"


def slot_of(key: bytes) -> int:
    """Return the cluster slot of a key of ours."""
    return crc_hqx(key[key.index(b"{") + 1 : key.rindex(b"}")], 0) % _SLOTS


@lru_cache(maxsize=4096)
def _full_name(key: BudgetKey) -> str:
    """Return what tells the name of a budget whose key has only the beginning of it; else nothing."""
    full = ":".join([quote(part.encode("utf-8", "surrogatepass"), safe="") for part in key])
    return "" if full == f"{_encode(key.dimension)}:{_encode(key.identifier)}" else full


def name_of_key(counter: bytes, full: str) -> BudgetKey:
    """Return the budget of a counter's key; `full`: what was left beside it ("-": nothing)."""
    text = counter[counter.index(b"{") + 1 : counter.rindex(b"}")].decode() if full == "-" else full
    dimension, _, identifier = text.partition(":")
    return BudgetKey(_decode(dimension), _decode(identifier))


def _decode(part: str) -> str:
    return unquote_to_bytes(part).decode("utf-8", "surrogatepass")


@lru_cache(maxsize=4096)
def _places(prefix: str, key: BudgetKey) -> tuple[int, tuple[bytes, ...]]:
    """Return the cluster slot of a budget and the names of its keys, as the prelude lists them."""
    tag = f"{_encode(key.dimension)}:{_encode(key.identifier)}"
    slot = crc_hqx(tag.encode(), 0) % _SLOTS
    return slot, (f"{prefix}:{{{tag}}}:c".encode(), f"{prefix}:{{{tag}}}:d".encode())


class _Group(NamedTuple):
    """Budgets that one script can reach."""

    slot: int
    indexes: list[int]
    """Their places in what the caller gave."""
    keys: tuple[bytes, ...]

    def ending(self, id: str) -> tuple[bytes, ...]:
        """Return the keys with those that say that reservation `id` has ended, for `settle`."""
        name = (
            b":e:"
            + (id if id.isascii() and id.isalnum() and len(id) <= _LONGEST_PART else _encode(id)).encode()
        )
        keys: list[bytes] = []
        for at in range(0, len(self.keys), 2):
            counter, due = self.keys[at : at + 2]
            keys += (counter, due, counter[:-2] + name)
        return tuple(keys)


class _Doubt(NamedTuple):
    """A reserve whose answer never came."""

    groups: list[_Group]
    due: float | None
    """By `time.monotonic`; None until the store has answered again."""


class _Known(dict[str, "tuple[float, tuple[BudgetKey, ...]]"]):
    """What this process holds in one store, by reservation id: until when at least, and on which budgets.

    Renewing needs the budgets and is told ids only. All backends of the process on one store share this.
    """

    prune_at = 1024

    def remember(self, id: str, keys: tuple[BudgetKey, ...], lease: float) -> None:
        now = time.monotonic()
        self[id] = (now + lease, keys)
        if len(self) > self.prune_at:
            # Those that nobody settles or renews any more.
            for each, (expires, _) in list(self.items()):
                if expires < now:
                    self.pop(each, None)
            self.prune_at = max(1024, 2 * len(self))


_known_by_store: weakref.WeakValueDictionary[tuple[str, str], _Known] = weakref.WeakValueDictionary()


class Verbs(ForkAware):
    """The verbs of `Backend` as flows, on the store called `name`.

    `clustered`: budgets of different slots need a script each.
    """

    def __init__(
        self, name: str, prefix: str, *, clustered: bool, retention: Retention | None = None
    ) -> None:
        self._prefix = prefix
        self._clustered = clustered
        self.retention = retention or _RETENTION
        self.book = f"{prefix}:{{ledger}}:l".encode()
        """The stream of the ledger; in a cluster, of what held nothing (see `_redis_ledger`)."""
        self._named: set[BudgetKey] = set()
        # The thresholds that this process has left in the store.
        self._told: dict[BudgetKey, str] = {}
        self.clock: Callable[[], float] | None = None
        """A test's clock, in seconds; None: the server's."""
        self.wall: Callable[[], float] = time.time
        """What this machine takes for the time."""
        self._ahead = 0.0
        """How far the store's clock was found to be ahead of it, when that mattered."""
        self._known = _known_by_store.setdefault((name, prefix), _Known())
        self._doubts: dict[str, _Doubt] = {}
        self._name_attempts()
        survive_forks(self)

    def reserve(
        self, id: str, holds: Sequence[Hold], charge: int, lease: float, about: str = ""
    ) -> Flow[Grant]:
        """As `Backend.reserve`; raises ValueError when a key appears twice."""
        check_holds(holds)
        yield from self._name_long([hold.key for hold in holds])
        groups = self._groups([hold.key for hold in holds])
        book = book_args(about, None, self.retention) if about else []
        doubt = self._doubts.pop(id, None) if self._doubts else None
        raw = _raw(id)
        head = [*self._head(), raw, str(charge), repr(float(lease))]
        rows: list[list[str]] = [[]] * len(holds)
        refused, most, tried = False, "", 0
        try:
            for group in groups:
                tried += 1
                mine = [holds[index] for index in group.indexes]
                keys, args = group.keys, [*head, "1" if refused else "", most, *map(self._spec, mine)]
                last: list[str | bytes] = []
                if book and tried == 1:
                    keys, last = (*keys, self._book_of(group)), book
                periods = [hold.period for hold in mine]
                answer = yield from self._in_time(group, "reserve", keys, args, periods, last)
                for index, text in zip(group.indexes, answer.decode().split(";")):
                    row = rows[index] = text.split(" ")
                    if row[0] == "-":
                        refused = True
                    elif holds[index].elastic and (not most or int(row[0]) < int(most)):
                        most = row[0]
            states = tuple([_state(hold.key, row[2:], hold.period) for hold, row in zip(holds, rows)])
            self._note_told(holds)
            if refused:
                yield from self._take_back(
                    id, [group for group in groups if any(rows[index][1] != "-" for index in group.indexes)]
                )
                if doubt is not None:
                    self._doubts[id] = doubt
                full = tuple([hold.key for hold, row in zip(holds, rows) if row[0] == "-"])
                return Grant(None, states, full)
            amounts = [int(row[0]) for row in rows]
            if len(groups) > 1:
                yield from self._level(raw, holds, groups, amounts)
        except BaseException as error:
            self._doubt(id, groups[:tried], doubt)
            if len(groups) > 1 and isinstance(error, BackendError):
                yield from self._take_back_now(id, groups[:tried])
            raise
        held = tuple(
            [Held(hold.key, row[1], amount, hold.period) for hold, row, amount in zip(holds, rows, amounts)]
        )
        self._known.remember(id, tuple([hold.key for hold in holds]), lease)
        return Grant(Reservation(id, held, charge), states)

    def settle(
        self, reservation: Reservation, tokens: int, marks: Sequence[Mark] = (), entry: Entry | None = None
    ) -> Flow[Settlement]:
        """As `Backend.settle`. In a cluster it may fail half way: the same again books the rest."""
        holds = reservation.holds
        head = [*self._head(), _raw(reservation.id), str(tokens)]
        texts: list[str] = [""] * len(holds)
        passed: list[int] = []
        ended = True
        for group in self._groups([held.key for held in holds]):
            local = {holds[index].key: place for place, index in enumerate(group.indexes, 1)}
            mine = [number for number, mark in enumerate(marks) if mark.key in local]
            here = [holds[index] for index in group.indexes]
            args = [*head, *[held.epoch for held in here]]
            last: list[str | bytes] = [
                f"{local[marks[number].key]} {float(marks[number].at_pct)!r} {marks[number].limit}"
                for number in mine
            ]
            keys, periods = group.ending(reservation.id), [held.period for held in here]
            if entry is not None:
                keys = (*keys, self._book_of(group))
                last += book_args(entry.label, entry, self.retention)
                entry = None  # a row is written once, beside the first budget
            answer = yield from self._in_time(group, "settle", keys, args, periods, last)
            anything, found, *states = answer.decode().split(";")
            ended = ended and anything == "0"
            if found:
                passed += [mine[int(number) - 1] for number in found.split(" ")]
            for index, text in zip(group.indexes, states):
                texts[index] = text
        self._known.pop(reservation.id, None)
        hits = tuple([marks[number] for number in sorted(passed)])
        if ended:
            return Settlement((), hits)
        return Settlement(
            tuple([_state(held.key, text.split(" "), held.period) for held, text in zip(holds, texts)]), hits
        )

    @property
    def prefix(self) -> str:
        """What begins every key."""
        return self._prefix

    @property
    def clustered(self) -> bool:
        """True when budgets of different slots need a script each."""
        return self._clustered

    def record(self, entries: Sequence[Entry]) -> Flow[None]:
        """As `LedgerBackend.record`."""
        if entries:
            args = [*self._head(), *record_args(entries, self.retention)]
            yield Call(slot_of(self.book), _script("record"), (self.book,), args)

    def ask(self, slot: int, name: str, keys: tuple[bytes, ...], args: Sequence[str]) -> Flow[bytes]:
        """Return the answer of a script that reads."""
        answer = yield Call(slot if self._clustered else 0, _script(name), keys, [*self._head(), *args])
        return answer

    def renew(self, ids: Collection[str], lease: float) -> Flow[set[str]]:
        """As `Backend.renew`, for reservations made by this process."""
        wanted: dict[BudgetKey, list[str]] = {}
        for each in ids:
            for key in self._known.get(each, (0.0, ()))[1]:
                wanted.setdefault(key, []).append(each)
        work = [
            (key, asked[start : start + _RENEW_BATCH])
            for key, asked in wanted.items()
            for start in range(0, len(asked), _RENEW_BATCH)
        ]
        alive: set[str] = set()
        for group in self._groups([key for key, _ in work]):
            for first in range(0, len(group.indexes), 8):
                batch = [work[index] for index in group.indexes[first : first + 8]]
                args: list[str | bytes] = [*self._head(), repr(float(lease))]
                for _, asked in batch:
                    args.append(str(len(asked)))
                    args += [_raw(each) for each in asked]
                keys = tuple(
                    itertools.chain.from_iterable([_places(self._prefix, key)[1] for key, _ in batch])
                )
                answer = yield Call(group.slot, _script("renew"), keys, args)
                order = [each for _, asked in batch for each in asked]
                alive.update(order[int(position) - 1] for position in answer.split())
        expires = time.monotonic() + lease
        for each in alive:
            known = self._known.get(each)
            if known is not None:
                self._known[each] = (expires, known[1])
        gone = set(ids) - alive
        for each in gone:
            self._known.pop(each, None)
        return gone

    def pass_marks(self, marks: Sequence[Mark]) -> Flow[tuple[Mark, ...]]:
        """As `Backend.pass_marks`."""
        order = list(dict.fromkeys(mark.key for mark in marks))
        passed: list[int] = []
        head = self._head()
        for group in self._groups(order):
            local = {order[index]: place for place, index in enumerate(group.indexes, 1)}
            mine = [number for number, mark in enumerate(marks) if mark.key in local]
            args = [f"{local[marks[number].key]} {float(marks[number].at_pct)!r}" for number in mine]
            answer = yield Call(group.slot, _script("marks"), group.keys, [*head, *args])
            passed += [mine[int(number) - 1] for number in answer.split()]
        return tuple([marks[number] for number in sorted(passed)])

    def get_states(self, keys: Sequence[Question]) -> Flow[tuple[BudgetState, ...]]:
        """As `Backend.get_states`."""
        questions = [in_full(each) for each in keys]
        states: dict[int, BudgetState] = {}
        head = self._head()
        for group in self._groups([each.key for each in questions]):
            mine = [questions[index] for index in group.indexes]
            args = [*head, *[str(each.limit) for each in mine]]
            answer = yield from self._in_time(
                group, "states", group.keys, args, [each.period for each in mine]
            )
            for index, text in zip(group.indexes, answer.decode().split(";")):
                states[index] = _state(questions[index].key, text.split(" "), questions[index].period)
        return tuple([states[index] for index in range(len(questions))])

    def set_limit(self, key: BudgetKey, limit: int | None) -> Flow[None]:
        """As `Backend.set_limit`; raises ConfigurationError for a limit below 1 token."""
        yield from self._change(key, LIMIT, limit)

    def grant(self, key: BudgetKey, tokens: int, period: Period | None = None) -> Flow[None]:
        """As `Backend.grant`; raises ConfigurationError for less than 1 token."""
        yield from self._change(key, GRANT, tokens, period)

    def reset(self, key: BudgetKey) -> Flow[None]:
        """As `Backend.reset`."""
        yield from self._change(key, RESET)

    def change(
        self, key: BudgetKey, action: str, tokens: int | None, who: Who, period: Period | None
    ) -> Flow[Change]:
        """As `LedgerBackend.change`."""
        line = yield from self._change(key, action, tokens, period, spell_who(who))
        return read_change(key, line)

    def _change(
        self,
        key: BudgetKey,
        action: str,
        tokens: int | None = None,
        period: Period | None = None,
        who: str = "",
    ) -> Flow[str]:
        """Change a budget, and note it where somebody is named."""
        check_change(action, tokens)
        yield from self._name_long([key])
        (group,) = self._groups([key])
        keys = group.keys[:1]
        if who:
            keys = (*keys, keys[0][:-1] + b"h")
        args = [*self._head(), action, "" if tokens is None else str(tokens)]
        line = yield from self._in_time(group, "change", keys, args, [period], (who,))
        return line.decode()

    @property
    def doubtful(self) -> bool:
        """True when `dispel` has something to do, now or soon."""
        return bool(self._doubts)

    def dispel(self) -> Flow[None]:
        """Take back what unanswered reserves may hold. To be run while the store answers."""
        now = time.monotonic()
        for each, doubt in list(self._doubts.items()):
            if doubt.due is None:
                self._doubts[each] = doubt._replace(due=now + _DOUBT_SECONDS)
            elif doubt.due <= now:
                yield from self._take_back(each, doubt.groups)
                self._doubts.pop(each, None)

    def after_fork_in_child(self) -> None:
        """See `_fork`: the parent settles its own doubts, and no attempt is named twice."""
        self._doubts = {}
        self._name_attempts()

    def _name_attempts(self) -> None:
        self._process = secrets.token_hex(6)
        self._attempts = itertools.count()

    def _head(self) -> list[str | bytes]:
        clock = "" if self.clock is None else repr(float(self.clock()))
        return [clock, f"{self._process}{next(self._attempts):x}"]

    def _book_of(self, group: _Group) -> bytes:
        """Return the stream of the ledger for a call whose first budget is in this group."""
        return group.keys[0][:-1] + b"l" if self._clustered else self.book

    def _name_long(self, keys: Iterable[BudgetKey]) -> Flow[None]:
        """Leave the name of a budget beside it where its key has only the beginning of it."""
        for key in keys:
            name = _full_name(key)
            if name and key not in self._named:
                slot, (counter, _) = _places(self._prefix, key)
                yield Call(slot, _script("name"), (counter,), [*self._head(), name])
                if len(self._named) >= _MOST_NAMED:
                    self._named.clear()
                self._named.add(key)

    def _in_time(
        self,
        group: _Group,
        script: str,
        keys: tuple[bytes, ...],
        before: list[str | bytes],
        periods: Sequence[Period | None],
        after: Sequence[str | bytes] = (),
    ) -> Flow[bytes]:
        """Run a script that is told of periods, once more where this machine's clock was too far off."""
        told = _script(script, any(period is not None for period in periods))
        for _ in range(_CLOCK_ATTEMPTS):
            at = (self.clock or self.wall)() + self._ahead
            args = [*before, *[_spell_period(period, at) for period in periods], *after]
            answer = yield Call(group.slot, told, keys, args)
            if not answer.startswith(b"!"):
                return answer
            self._ahead = float(answer[1:]) - (self.clock or self.wall)()
        raise BackendError("the clock of the store does not stand still long enough to be read")

    def _groups(self, keys: Sequence[BudgetKey]) -> list[_Group]:
        """Split `keys` into what one script may touch: all of them, or those of one slot."""
        places = [_places(self._prefix, key) for key in keys]
        if len(places) == 1:
            return [_Group(places[0][0], [0], places[0][1])]
        slots: dict[int, list[int]] = {}
        for index, (slot, _) in enumerate(places):
            slots.setdefault(slot if self._clustered else 0, []).append(index)
        return [
            _Group(slot, indexes, tuple(itertools.chain.from_iterable([places[at][1] for at in indexes])))
            for slot, indexes in slots.items()
        ]

    def _level(
        self, raw: bytes, holds: Sequence[Hold], groups: Iterable[_Group], amounts: list[int]
    ) -> Flow[None]:
        """Bring the elastic holds that were made before a tighter slot was met down to it."""
        elastic = [amount for hold, amount in zip(holds, amounts) if hold.elastic]
        for group in groups:
            fair = [
                max(min(elastic), holds[index].need) if holds[index].elastic else amounts[index]
                for index in group.indexes
            ]
            if any(amounts[index] > amount for index, amount in zip(group.indexes, fair)):
                yield Call(group.slot, _script("shrink"), group.keys, [*self._head(), raw, *map(str, fair)])
                for index, amount in zip(group.indexes, fair):
                    amounts[index] = min(amounts[index], amount)

    def _spec(self, hold: Hold) -> str:
        ceiling = "-" if hold.ceiling is None else repr(float(hold.ceiling))
        news = "=" if self._told.get(hold.key, "") == hold.thresholds else "+"
        elastic = "1" if hold.elastic else "0"
        return f"{hold.limit} {ceiling} {hold.need} {hold.amount} {elastic} {news}{hold.thresholds}"

    def _note_told(self, holds: Sequence[Hold]) -> None:
        for hold in holds:
            if self._told.get(hold.key, "") != hold.thresholds:
                if len(self._told) >= _MOST_NAMED:
                    self._told.clear()
                self._told[hold.key] = hold.thresholds

    def _take_back(self, id: str, groups: Iterable[_Group]) -> Flow[None]:
        for group in groups:
            unnamed = ["-"] * len(group.indexes)
            args = [*self._head(), _raw(id), "0", *unnamed, *unnamed]
            yield Call(group.slot, _script("settle"), group.ending(id), args)

    def _take_back_now(self, id: str, groups: Sequence[_Group]) -> Flow[None]:
        """Take back what can be reached at once; the rest, and what is still on its way, stays in doubt."""
        for group in groups:
            try:
                yield from self._take_back(id, [group])
            except BackendError:
                continue

    def _doubt(self, id: str, groups: list[_Group], earlier: _Doubt | None) -> None:
        if earlier is not None:
            groups = [*earlier.groups, *groups]
        if groups and len(self._doubts) < _MOST_DOUBTS:
            self._doubts[id] = _Doubt(groups, None)


def _raw(id: str) -> bytes:
    return id.encode("utf-8", "surrogatepass")


def _spell_period(period: Period | None, at: float) -> str:
    if period is None:
        return "-"
    if isinstance(period, Rolling):
        return f"r {period.text} {period.seconds!r}"
    return f"c {period.text} {' '.join(map(str, period.around(at)))}"


def _state(key: BudgetKey, row: Sequence[str], period: Period | None) -> BudgetState:
    limit, used, reserved, calls, expired, window, previous, granted = map(int, row)
    end = resets_at(period, window)
    return BudgetState(key, limit, used, reserved, calls, expired, end, previous, granted)
