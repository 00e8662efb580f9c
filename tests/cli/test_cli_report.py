"""`tokencap report`: what the page is made of, and the page itself in a browser, known to the token."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chromium import Chromium, Tab
from command import Clock, Command, filled, place_of, policy, spend

from tokencap import Guard, ledger
from tokencap._entry import Entry, Label, Retention, Sum
from tokencap.backends.redis import RedisBackend
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.cli import report
from tokencap.cli.facts import LONGEST_NAME, MOST_ROWS, MOST_VALUES, fold, step_of
from tokencap.cli.main import main

SHOTS = Path(os.environ.get("TOKENCAP_SCREENSHOTS") or Path(__file__).parents[2] / "build" / "screenshots")
HOSTILE = "</script x><img src=x onerror=alert(1)><!--<script >&lt;"


class Call(NamedTuple):
    """A call in the ledger. `hour`: after the first."""

    hour: float
    model: str
    tenant: str
    input: int
    output: int
    cached: int = 0
    written: int = 0
    agent: str = ""
    asked: str = ""
    ending: str = "ok"

    @property
    def tokens(self) -> int:
        return self.input + self.output

    def label(self) -> Label:
        provider = "anthropic" if self.model.startswith("claude") else "openai"
        tags = {"agent": self.agent} if self.agent else {}
        identifiers = {"tenant": self.tenant, "session": "s"}
        return Label(provider, "/x", self.asked or self.model, self.model, identifiers, tags)


CALLS = [
    Call(0, "gpt-5", "acme", 1_009, 211, agent="planner"),
    Call(0.1, "gpt-5", "acme", 2_003, 307, cached=1_500, agent="planner"),
    Call(1, "claude-haiku-4-5", "globex", 5_009, 401, cached=2_000, written=700, agent="writer"),
    Call(3, "claude-haiku-4-5", "globex", 3_001, 503, agent="writer", asked="claude-sonnet-4-5"),
    Call(3, "claude-haiku-4-5", HOSTILE, 401, 97, asked="claude-sonnet-4-5"),
    Call(5.5, "gpt-5-mini", "acme", 8_009, 601, agent="writer"),
    Call(6, "gpt-5", "globex", 0, 0, agent="planner", ending="blocked"),
    Call(6, "gpt-5", "globex", 0, 0, ending="blocked"),
    Call(7, "gpt-5", "acme", 103, 0, ending="failed"),
    Call(9, "gpt-5", "acme", 13_001, 1_201, cached=9_000, agent="planner"),
    Call(9, "gpt-5-mini", "initech", 701, 83, agent="writer", ending="cut"),
]
START = time.time() // 3_600 * 3_600 - 10 * 3_600


def ledger_of(path: Path, calls: Sequence[Call] = CALLS) -> Path:
    """Fill the ledger of a file, and two budgets of it."""
    clock = Clock()
    backend = SQLiteBackend(path, clock=clock)
    for one in calls:
        clock.now = START + one.hour * 3_600
        counts = (one.input, one.output, one.cached, one.written)
        backend.record([Entry(one.label().text(), one.ending, *counts, estimated=one.ending == "cut")])
    clock.now = time.time()
    with Guard(policy(tenant=1_000, team=None), {"team": "blue"}, backend, ledger=False) as guard:
        spend(guard, 600, tenant="acme")
        spend(guard, 1_200, tenant="globex")
    backend.close()
    return path


def sums_of(data: dict[str, Any], facet: str, count: str = "tokens") -> dict[str, int]:
    """Add up what the rows in a page say, by the names of a facet."""
    at = {name: place for place, name in enumerate(data["columns"])}
    found: Counter[str] = Counter()
    for row in data["rows"]:
        value = row[at["input"]] + row[at["output"]] if count == "tokens" else row[at[count]]
        found[data["values"][facet][row[at[facet]]]] += value
    return dict(found)


# -- what the page is made of ----------------------------------------------------------------------------


def test_a_script_gets_what_the_ledger_knows_to_the_token(place: str, tokencap_: Command) -> None:
    filled(place)
    data = tokencap_("report", "--json").json()
    total = data["total"]
    assert (total["tokens"], total["calls"], total["cached"]) == (1_625, 5, 500)
    assert (total["ok"], total["blocked"], total["failed"], total["degraded"]) == (3, 1, 1, 0)
    assert sums_of(data, "dimension:tenant") == {"acme": 600, "globex": 1_025}
    assert sums_of(data, "tag:agent") == {"": 1_025, "planner": 400, "writer": 200}
    assert sums_of(data, "ending", "calls") == {"ok": 3, "blocked": 1, "failed": 1}
    usage = tokencap_("usage", "--json", "--since", "ever").json()
    assert sums_of(data, "model") == {row["model"]: row["tokens"] for row in usage["rows"]}
    assert total["output"] == usage["total"]["output"]
    budgets = {
        f"{one['dimension']}={one['identifier']}": (one["used"], one["limit"]) for one in data["budgets"]
    }
    assert budgets == {
        "tenant=acme": (600, 1_000),
        "tenant=globex": (1_025, 1_000),
        "session=s": (1_625, None),
    }
    assert not Path("report.html").exists()


def test_only_the_time_asked_for_is_reported(tmp_path: Path) -> None:
    backend = SQLiteBackend(ledger_of(tmp_path / "t.db"))
    since, until = (time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(START + hour * 3_600)) for hour in (1, 6))
    data = report.data_of(backend, since, until)
    assert data["total"]["tokens"] == sum(one.tokens for one in CALLS if 1 <= one.hour < 6)
    assert data["total"]["degraded"] == 2
    assert data["step"] == 300
    backend.close()


@pytest.mark.service
def test_sums_of_days_are_used_where_single_calls_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = place_of("redis", tmp_path)
    url, _, prefix = place.partition("#")
    backend = RedisBackend(url, prefix=prefix, retention=Retention(rows=5))
    with Guard(policy(tenant=None), {"tenant": "acme"}, backend) as guard:
        for _ in range(400):
            spend(guard, 40)
    kept = len(list(ledger.open(backend).calls()))
    backend.close()
    data = Command(place, capsys)("report", "--json").json()
    assert kept < 400
    assert (data["total"]["calls"], data["total"]["tokens"]) == (400, 16_000)
    assert data["step"] == 86_400


@pytest.mark.parametrize(
    ("span", "step"),
    [
        (0, 60),
        (5_400, 60),
        (36_000, 900),
        (86_400, 900),
        (4 * 86_400, 3_600),
        (30 * 86_400, 86_400),
        (90 * 86_400, 86_400),
        (100 * 86_400, 604_800),
        (36_525 * 86_400, 64 * 604_800),
    ],
)
def test_a_page_has_at_most_100_periods(span: int, step: int) -> None:
    assert step_of(span) == step
    assert span // step + 1 <= 100


def sums(count: int, names: Any, periods: int = 50) -> list[Sum]:
    """Return as many sums, each of a label of its own. `names`: the identifiers and tags of the nth."""
    found = []
    for n in range(count):
        identifiers, tags = names(n)
        label = Label("openai", "/x", "m", f"m{n % 3}", identifiers, tags).text()
        found.append(Sum(label, n % periods * 3_600, ("ok", "blocked")[n % 2], 1, 0, n, 7, 0, 0, 0, 0.001))
    return found


def test_a_report_is_exact_with_a_bounded_number_of_rows_and_names() -> None:
    # Nothing in common, more dimensions and tags than there is room for, and names that are too long.
    long = "n" * 100
    some = sums(
        2_500,
        lambda n: (
            {f"dimension{at}": f"{long}{n}.{at}" for at in range(8)},
            {**{f"t{at}": f"{n}" for at in range(6)}, long: "x"},
        ),
    )
    facts = fold(some, 3_600, 1_500)
    assert len(facts.rows) <= 1_500
    assert min(facts.rest.values()) > 2_000
    assert len([facet for facet in facts.facets if facet.startswith("dimension:")]) == 6
    assert facts.left_out == ["dimension:dimension6", "dimension:dimension7", f"tag:{long[:75]}…"]
    total = facts.total()
    assert (total["calls"], total["output"], total["input"]) == (2_500, 17_500, sum(range(2_500)))
    assert total["blocked"] == 1_250
    longest = max(len(name) for names in facts.values.values() for name in names if name)
    assert longest == LONGEST_NAME


def test_the_largest_report_there_can_be_is_below_8_megabytes() -> None:
    costly = "\x01" * LONGEST_NAME  # six bytes a letter
    facets = [f"dimension:{n}" for n in range(15)]
    row = [START, *[150] * 15, 5, 1, *[10**13] * 7, 1e9 + 0.123]
    data = {
        "facets": facets,
        "values": {facet: [costly] * (MOST_VALUES + 1) for facet in facets},
        "rows": [row] * MOST_ROWS,
        "budgets": [{"dimension": costly, "identifier": costly, "used": 10**13, "limit": 10**13}] * 200,
        "total": {"tokens": 0, "calls": 0},
        "since": 0,
        "until": 0,
    }
    assert len(report.page_of(data, "x")) < 8_000_000


def test_the_facet_with_most_names_gives_up_its_own_first() -> None:
    facts = fold(sums(3_000, lambda n: ({"tenant": f"t{n % 40}", "session": f"s{n}"}, {})), 3_600, 2_500)
    assert facts.rest == {"dimension:session": 3_000 - len(facts.values["dimension:session"]) + 1}
    assert len(facts.values["dimension:tenant"]) == 40
    # Those with most tokens have kept their names, and everything else is last.
    assert facts.values["dimension:session"][0] == "s2999"
    assert facts.values["dimension:session"][-1] is None
    with pytest.raises(ValueError, match="too few"):
        fold(sums(300, lambda n: ({}, {})), 3_600, 20)


# -- the file --------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.data = ""
        self._in_data = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._in_data = dict(attrs).get("id") == "tokencap-data"

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        self.data += data if self._in_data else ""


def test_the_file_holds_the_same_data_and_no_name_can_break_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(ledger_of(tmp_path / "tokencap.db"))
    assert main(["report", "--backend", store, "-o", "r.html", "--title", f"{HOSTILE} \udc80"]) == 0
    said = capsys.readouterr().out
    assert "r.html: 36,641 tokens in 11 calls" in said
    assert (tmp_path / "r.html").as_uri() in said
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    elements = Elements(page)
    assert elements.tags["script"] == 2
    assert elements.tags["img"] == 0
    assert "onerror=alert(1)><" not in page
    embedded = json.loads(elements.data)
    assert main(["report", "--backend", store, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for moving in ("made", "until", "since", "budgets"):
        embedded.pop(moving), printed.pop(moving)
    assert embedded == printed
    assert HOSTILE in embedded["values"]["dimension:tenant"]
    # A source outside the file: nothing but this namespace, which is never fetched.
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "r.html").write_text("old")
    (place / "link.html").symlink_to(place / "r.html")
    report.write(place / "link.html", "new")
    assert (place / "r.html").read_text() == "new"
    assert (place / "link.html").is_symlink()
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(report.TokencapError, match="No space left on device"):
            report.write(place / "r.html", "newer")
    assert (place / "r.html").read_text() == "new"
    assert sorted(path.name for path in place.iterdir()) == ["link.html", "r.html"]
    store = str(ledger_of(tmp_path / "tokencap.db"))
    assert main(["report", "--backend", store, "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert main(["report", "--backend", store, "--json", "-o", str(place / "r.json")]) == 0
    assert json.loads((place / "r.json").read_text())["total"]["tokens"] == 36_641
    assert main(["report", "--backend", store, "-o", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


def test_a_mistake_is_told_with_what_to_do_next_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*argv: str) -> str:
        assert main(["report", *argv]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        return err

    assert "there is no store at" in said()
    assert "there is no folder no/such: make it first (mkdir -p no/such)" in said("-o", "no/such/r.html")
    assert "is a folder: name the file, like -o" in said("-o", ".")
    SQLiteBackend(tmp_path / "new.db").get_states([])
    assert "has no call yet" in said("--backend", "new.db")
    ledger_of(tmp_path / "old.db", [])
    assert "run your app under tokencap.wrap() or tokencap.patch()" in said("--backend", "old.db")
    store = str(ledger_of(tmp_path / "tokencap.db"))
    assert "look further back with --since 90d, or at all with --since ever" in said("--since", "1s")
    assert main(["report", "--backend", store, "--until", "2020-01-01", "--since", "ever"]) == 1
    assert list(tmp_path.glob("*.html")) == []


def test_its_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert "tokencap report -o report.html" in capsys.readouterr().out


# -- the page in a browser -------------------------------------------------------------------------------

PROBE = Path(__file__).with_name("report_probe.js").read_text(encoding="utf-8")


class Page(Tab):
    """The report, opened in a browser."""

    def __init__(self, browser: Chromium, path: Path) -> None:
        super().__init__(browser, path)
        self(PROBE)

    def ask(self, what: str, *args: Any) -> Any:
        """Return what a function in `report_probe.js` says."""
        return self(f"probe.{what}({', '.join(map(json.dumps, args))})")

    def total(self) -> tuple[int, int]:
        """Return the tokens and the calls that the page says are chosen."""
        texts = self.ask("text", "#total-tokens"), self.ask("text", "#total-unit")
        tokens, calls = (int(re.sub(r"\D", "", text)) for text in texts)
        return tokens, calls

    def columns(self, chart: str) -> dict[tuple[int, str], int]:
        """Return the values of a chart by period and series; check that each is as high as it says."""
        found = self.ask("parts", chart)
        values = {(int(period), str(series)): int(value) for period, series, value, _ in found}
        assert len(values) == len(found)
        highest = max(found, key=lambda part: part[2], default=None)
        for *_, value, height in found:
            assert height == pytest.approx(max(value * highest[3] / highest[2], 0.75), abs=0.26)
        return values


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    started = Chromium(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    store = ledger_of(folder / "tokencap.db")
    assert main(["report", "--backend", str(store), "-o", str(folder / "r.html")]) == 0
    return folder / "r.html"


@pytest.fixture
def page(browser: Chromium, written: Path) -> Iterator[Page]:
    """The report of `CALLS`. Whatever a test does with it: nothing is complained of, nothing is fetched."""
    opened = Page(browser, written)
    yield opened
    complaints, requests = opened.complaints(), opened.requests()
    opened.close()
    assert complaints == []
    assert requests == []


def drawn(calls: Sequence[Call]) -> dict[tuple[int, str], int]:
    """Return what the columns over time have to be."""
    found: Counter[tuple[int, str]] = Counter()
    for one in calls:
        period = int(START + one.hour * 3_600) // 900 * 900
        found[period, "input"] += one.input - one.cached
        found[period, "cached"] += one.cached
        found[period, "output"] += one.output
    return {key: value for key, value in found.items() if value}


def by(name: str, calls: Sequence[Call]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for one in calls:
        found[getattr(one, name) or "(none)"] += one.tokens
    return dict(found)


def test_every_number_of_the_page_is_that_of_the_ledger(page: Page) -> None:
    assert page.total() == (sum(one.tokens for one in CALLS), len(CALLS)) == (36_641, 11)
    assert page.columns("#plot-tokens") == drawn(CALLS)
    assert sum(drawn(CALLS).values()) == 36_641
    assert page.ask("table", "#by-model") == by("model", CALLS)
    assert page.ask("table", "#by-tag") == by("agent", CALLS)
    assert page.ask("figures") == {
        "input": sum(one.input for one in CALLS),
        "output": sum(one.output for one in CALLS),
        "cached": 12_500,
        "blocked": 2,
        "degraded": 2,
        "broken": 2,
    }
    assert page.ask("number", "#saved") == 12_500
    assert page.ask("table", "#by-ending") == {"ok": 7, "blocked": 2, "failed": 1, "cut": 1}
    three, six = (int(START + hour * 3_600) for hour in (3, 6))
    assert page.columns("#plot-stopped") == {(three, "degraded"): 2, (six, "blocked"): 2}
    assert page.ask("cells", "#degraded") == [["claude-sonnet-4-5 → claude-haiku-4-5", "2", "4,002"]]
    assert page.ask("table", "#budgets", "used") == {
        "tenant=globex": 1_200,
        "tenant=acme": 600,
        "team=blue": 1_800,
    }
    assert page.ask("table", "#budgets", "limit")["tenant=acme"] == 1_000
    # One dimension is shown, and another when it is asked for.
    assert page.ask("table", "#by-identifier") == by("tenant", CALLS)
    page.ask("set", "#pick-dimension select", "dimension:session")
    assert page.ask("table", "#by-identifier") == {"s": 36_641}
    assert page("document.querySelectorAll('img').length") == 0
    # The table beside a chart says the same.
    lines = page.ask("cells", "#chart-tokens")
    assert sum(int(cell.replace(",", "")) for line in lines for cell in line[1:4]) == 36_641


def test_the_columns_over_time_are_made_of_whatever_is_asked_for(page: Page) -> None:
    page.ask("set", "#split", "dimension:tenant")
    found: Counter[tuple[int, str]] = Counter()
    ranked = sorted(by("tenant", CALLS).items(), key=lambda item: -item[1])
    names = {name: colour for (name, _), colour in zip(ranked, ("one", "two", "three", "four"))}
    for one in CALLS:
        if one.tokens:
            found[int(START + one.hour * 3_600) // 900 * 900, names[one.tenant]] += one.tokens
    assert page.columns("#plot-tokens") == found
    assert page.ask("texts", "#chart-tokens .legend li") == [name for name, _ in ranked]
    page.ask("set", "#split", "")
    assert page.columns("#plot-tokens") == drawn(CALLS)


def test_filters_change_every_number_and_chart(page: Page) -> None:
    def shows(**wanted: str) -> None:
        among([one for one in CALLS if all(getattr(one, name) == value for name, value in wanted.items())])

    def among(calls: Sequence[Call]) -> None:
        assert page.total() == (sum(one.tokens for one in calls), len(calls))
        assert page.columns("#plot-tokens") == drawn(calls)
        assert page.ask("table", "#by-model") == by("model", calls)
        assert page.ask("table", "#by-ending") == dict(Counter(one.ending for one in calls))
        assert page.ask("number", "#saved") == sum(one.cached for one in calls)

    page.ask("pick", "tenant", "globex")
    shows(tenant="globex")
    assert page.ask("table", "#budgets", "used") == {"tenant=globex": 1_200, "team=blue": 1_800}
    page.ask("pick", "agent", "writer")
    shows(tenant="globex", agent="writer")
    page.ask("click", ".chip")  # takes the first filter away
    shows(agent="writer")
    page.ask("click", "#clear")
    shows()
    assert page("document.querySelector('#active').hidden")
    for label, name, text in [
        ("Model", "model", "gpt-5"),
        ("Ending", "ending", "blocked"),
        ("tenant", "tenant", HOSTILE),
    ]:
        page.ask("pick", label, text)
        shows(**{name: text})
        page.ask("pick", label, "All")
    page.ask("pick", "Provider", "anthropic")
    among([one for one in CALLS if one.model.startswith("claude")])
    page.ask("pick", "agent", "planner")
    among([])
    page.ask("click", "#clear")
    # From and to; then a stretch of the chart that is drawn with the mouse.
    page.ask("pick", "Time", "From … to …")
    for place, hour in (("#f-from", 1), ("#f-to", 6)):
        page.ask("set", place, time.strftime("%Y-%m-%dT%H:%M", time.gmtime(START + hour * 3_600)))
    among([one for one in CALLS if 1 <= one.hour < 6])
    page.ask("click", "#clear")
    page("document.querySelector('#plot-tokens').scrollIntoView()")
    spots = page.ask("spots", "#plot-tokens")
    page.drag(spots[4][0] + 3, spots[21][0] + 3, spots[4][1] + 40)
    among([one for one in CALLS if 1 <= one.hour < 5.5])
    page.ask("click", "#clear")
    # A name in a table filters, too.
    page.ask("click", "#by-model tr[data-name=gpt-5-mini] button")
    shows(model="gpt-5-mini")
    page.ask("click", "#by-model button[aria-pressed=true]")
    shows()


def test_the_last_hours_are_counted_from_the_end_of_the_report(browser: Chromium, tmp_path: Path) -> None:
    moved = [one._replace(hour=one.hour + 0.9) for one in CALLS]
    store = str(ledger_of(tmp_path / "tokencap.db", moved))
    end = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(START + 10 * 3_600))
    assert main(["report", "--backend", store, "-o", "r.html", "--until", end]) == 0
    page = Page(browser, tmp_path / "r.html")
    page.ask("pick", "Time", "Last hour")
    assert page.total() == (14_986, 2)
    page.close()


def test_the_page_can_be_used_by_everyone(page: Page) -> None:
    assert page.ask("nameless") == []
    assert page.ask("landmarks") == ["header", "form[aria-label]", "main", "footer"]
    assert page.ask("headings") == ["h1", *["h2"] * 7, "h3", "h3", "h2"]
    # A chart is read with the arrow keys.
    page("document.querySelector('#plot-tokens').focus()")
    said = "document.querySelector('#plot-tokens').getAttribute('aria-valuetext')"
    page.key("Home")
    assert ": 3,530 tokens" in page(said)
    assert "Input 1,512 · Input from a cache 1,500 · Output 518 · 2 calls in all" in page(said)
    page.key("ArrowRight")
    assert ": 0 tokens" in page(said)
    page.key("End")
    assert ": 14,986 tokens" in page(said)
    assert page("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    # Where a filter is chosen in a table, the keyboard stays.
    page("document.querySelector('#by-model tr[data-name=gpt-5-mini] button').focus()")
    page.ask("click", "#by-model tr[data-name=gpt-5-mini] button")
    assert page("document.activeElement.textContent") == "gpt-5-mini"


def test_the_page_forbids_itself_the_network(browser: Chromium, written: Path) -> None:
    page = Page(browser, written)
    assert page.ask("forbidden") == "img-src"
    assert len(page.complaints()) == 1
    page.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_good_to_read_in_light_and_dark_and_on_a_phone(
    page: Page, width: int, dark: bool
) -> None:
    page.look(width, dark)
    assert page("document.documentElement.scrollWidth") == width
    assert page.ask("outside", width) == []
    assert page.ask("faint") == []
    assert (page("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") is not dark
    assert page.columns("#plot-tokens") == drawn(CALLS)
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = SHOTS / f"report-{width}-{'dark' if dark else 'light'}.png"
    page.screenshot(shot)
    assert shot.read_bytes().startswith(b"\x89PNG")


def test_long_names_and_large_numbers_fit_a_phone(browser: Chromium, tmp_path: Path) -> None:
    wide = [Call(0, "m" * 90, "W" * 90, 9 * 10**12, 10**12, agent="W" * 90, asked="M" * 90)]
    wide += [one._replace(tenant=f"{'W' * 70}{at}") for at, one in enumerate(CALLS)]
    store = str(ledger_of(tmp_path / "tokencap.db", wide))
    assert main(["report", "--backend", store, "-o", "r.html", "--title", "W" * 90]) == 0
    page = Page(browser, tmp_path / "r.html")
    page.look(400)
    page("document.querySelector('#filter-box').open = true")
    page.ask("click", "#by-model button")
    assert page.ask("outside", 400) == []
    assert page("document.documentElement.scrollWidth") == 400
    page.close()
