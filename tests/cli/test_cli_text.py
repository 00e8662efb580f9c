"""Numbers, bars, plots and tables as text: values in, text out."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencap.cli import text
from tokencap.cli.console import look_of
from tokencap.cli.drawing import Bar, Cell, bar, plot, table
from tokencap.cli.text import Look, cells_of, clean, cut, duration, per_cent, short

PLAIN = Look(80)
ASCII = Look(80, unicode=False)


def test_numbers_are_short_and_keep_their_size() -> None:
    assert [short(n) for n in (0, 7, 0.25, 999, 1_000, 1_240, 99_960, 999_999, 5_600_000)] == [
        "0", "7", "0.2", "999", "1.0k", "1.2k", "100k", "1.0M", "5.6M",
    ]  # fmt: skip


def test_a_time_is_told_in_its_two_largest_units() -> None:
    assert [duration(s) for s in (0, 59.9, 60, 3_599, 3_600, 11_400, 86_400, 180_000, 1e12)] == [
        "0 s", "59 s", "1 min", "59 min", "1 h", "3 h 10 min", "1 d", "2 d 2 h", "years",
    ]  # fmt: skip


def test_a_share_is_never_100_per_cent_while_something_is_left() -> None:
    assert [per_cent(s) for s in (0.0, 0.624, 0.99999, 1.0, 1.006, 25.0)] == [
        "0.0 %", "62.4 %", "99.9 %", "100.0 %", "100.6 %", "2,500 %",
    ]  # fmt: skip


@given(st.floats(0, 2), st.integers(1, 60), st.booleans())
def test_a_bar_fills_its_width_and_is_full_only_when_nothing_is_left(
    share: float, width: int, nice: bool
) -> None:
    drawn = bar(share, width, Look(80, unicode=nice))
    assert cells_of(drawn) == width
    full = "█" if nice else "#"
    assert (drawn == full * width) == (share >= 1 - 1e-9 or (not nice and width == 1 and share > 0))
    assert (drawn[0] in "░.") == (share == 0)


def test_the_name_of_a_tenant_cannot_move_the_cursor() -> None:
    assert clean("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\x0ac\\x202ed"
    assert "\x1b" not in "".join(table(["who"], [["\x1b]0;owned\x07"]], PLAIN, "l"))


@given(st.text(), st.integers(3, 20))
def test_a_text_is_cut_to_the_columns_there_are(given_: str, width: int) -> None:
    assert cells_of(cut(clean(given_), width, PLAIN)) <= width


def test_letters_of_two_columns_count_twice() -> None:
    assert cells_of("日本") == 4
    assert cut("日本語", 4, PLAIN) == "日…"


def test_a_table_is_aligned_and_keeps_to_the_width() -> None:
    rows = [[Cell("acme"), Bar(0.5), "1,000"], [Cell("日本"), Bar(1.0), "5"]]
    lines = table(["who", " ", "tokens"], rows, PLAIN, "lbr")
    assert lines == [
        "who                             tokens",
        "acme  ████████████░░░░░░░░░░░░   1,000",
        "日本  ████████████████████████       5",
    ]
    assert {cells_of(line) for line in lines} == {38}


@pytest.mark.parametrize("width", [20, 30, 45, 60, 80, 200])
def test_where_it_is_narrow_columns_are_left_out_before_names_are_cut(width: int) -> None:
    rows: list[Any] = [["a-tenant-with-a-name", Bar(0.3), "1,234,567", "89"]]
    lines = table(["who", " ", "tokens", "calls"], rows, Look(width), "lbrr", ["calls", " "])
    assert all(cells_of(line) <= max(width, 17) for line in lines)
    assert "1,234,567" in lines[1]
    assert ("89" in lines[1]) == (width >= 20 + 2 + 6 + 2 + 9 + 2 + 5)
    assert ("a-tenant-with-a-name" in lines[1]) == (width >= 31)


def test_a_plot_has_a_column_for_every_value_and_names_the_highest() -> None:
    lines = plot([0, 100, 50, 200], ("first", "last"), 2, Look(40))
    assert lines == [
        "     200 │                  █████",
        "       0 │      █████ ▄▄▄▄▄ █████",
        "         └────────────────────────",
        "          first               last",
    ]


def test_more_values_than_columns_are_summed_up() -> None:
    lines = plot([1.0] * 1000, ("a", "b"), 1, Look(30))
    assert lines[0].strip().startswith("50 ")
    assert all(cells_of(line) <= 30 for line in lines)


def test_a_terminal_of_few_letters_gets_few() -> None:
    drawn = "\n".join([*plot([1, 2], ("a", "b"), 3, ASCII), bar(0.4, 9, ASCII), cut("abcdefgh", 5, ASCII)])
    assert drawn.isascii()


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "environ", "expected"),
    [
        ("utf-8", {}, Look(80, True, True)),
        ("latin-1", {}, Look(80, True, False)),
        ("utf-8", {"NO_COLOR": "1"}, Look(80, False, True)),
        ("utf-8", {"TERM": "dumb"}, Look(80, False, True)),
        ("utf-8", {"TERM": "dumb", "FORCE_COLOR": "1"}, Look(80, True, True)),
    ],
)
def test_colours_and_letters_are_those_the_terminal_has(
    encoding: str, environ: dict[str, str], expected: Look
) -> None:
    assert look_of(Terminal(encoding), environ, 80) == expected


def test_paint_is_nothing_where_there_is_no_colour() -> None:
    assert text.paint("x", "good", PLAIN) == "x"
    assert text.paint("x", "good", Look(80, colour=True)) == "\x1b[32mx\x1b[0m"
