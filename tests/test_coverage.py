"""What the report says is tracked, free and not seen; and that every method of the SDKs is in a table."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import tokencap
import wire_cohere  # noqa: F401  adds its clients
import wire_gemini  # noqa: F401
import wire_mistral  # noqa: F401
from tokencap import Coverage, CoverageRow, CoverageStatus, Guard, Policy, Provider, _coverage
from tokencap.backends.memory import MemoryBackend
from tokencap.clients import passing
from tokencap.clients.methods import Methods, methods_of, sdk_version
from tokencap.providers import PROVIDERS
from tokencap.providers.coverage import place_of, places
from wire import KINDS, Missing, Wire, at, done, drive, reply_json

ROOT = Path(__file__).parents[1]
STAINLESS = {"anthropic": Provider.ANTHROPIC, "openai": Provider.OPENAI}
OTHERS = {"google.genai": Provider.GEMINI, "mistralai": Provider.MISTRAL, "cohere": Provider.COHERE}

_methods = functools.cache(methods_of)


def installed(package: str) -> str:
    if sdk_version(package) is None:
        pytest.skip(f"{package} is not installed")
    return package


@pytest.fixture(params=[*STAINLESS, *OTHERS])
def sdk(request: pytest.FixtureRequest) -> str:
    return installed(request.param)


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


@pytest.fixture(autouse=True)
def nothing_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "_passed", {})
    monkeypatch.setattr(_coverage, "methods_of", _methods)  # reading the sources once is enough


def unclassified(provider: Provider, methods: Methods) -> dict[str, list[str]]:
    """Return the methods that are in no table, by what they reach."""
    known = {place.name for place in places(provider)}
    found = {
        place.name: list(names)
        for path, names in methods.posts.items()
        for place in [place_of(provider, path)]
        if place.status is CoverageStatus.UNKNOWN
    }
    found.update({f"{name}()": [name] for name in methods.connects if f"{name}()" not in known})
    return found


# -- every method of the SDKs ------------------------------------------------------------------------------


def test_every_method_of_the_sdk_that_posts_or_connects_is_in_a_table(sdk: str) -> None:
    methods, provider = _methods(sdk), {**STAINLESS, **OTHERS}[sdk]
    assert len(methods.posts) > 15
    assert methods.unread == (), "these post to somewhere that could not be read; see clients/methods.py"
    assert unclassified(provider, methods) == {}, (
        f"new in {sdk} {sdk_version(sdk)}: say in providers/{provider}.py whether they spend tokens "
        "(ENDPOINTS, NOT_SEEN) or not (FREE, MANAGED)"
    )


@pytest.mark.parametrize("sdk", STAINLESS)
def test_the_methods_read_from_the_source_are_those_of_a_client(sdk: str, is_async: bool) -> None:
    """Each is called on a client whose `request` notes where it was going: there, and nowhere else."""
    client = Wire().client(sdk, is_async)
    went: list[str] = []

    class Noted(Exception):  # noqa: N818
        pass

    def request(cast_to: Any, options: Any, **kwargs: Any) -> Any:
        if options.method.lower() == "post":
            went.append(str(options.url).split("?", 1)[0])
        raise Noted

    client.request = client._request_api_list = request
    driven = 0
    by_path = {
        name: path
        for path, names in _methods(sdk).posts.items()
        for name in names
        # A helper that makes a coroutine and waits for its `with` before it awaits it.
        if "lib." not in name and not name.endswith(".stream")
    }
    for name, path in by_path.items():
        try:
            method = at(client, name)
        except Exception:  # behind a package that is not installed
            continue
        needed = [
            parameter.name
            for parameter in inspect.signature(method).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
        went.clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                drive(done(method(**dict.fromkeys(needed, "x"))), is_async)
        except Noted:
            pass
        except Exception:  # "x" is no file, no list, no tool
            continue
        if went:
            driven += 1
            assert {re.sub(r"(?<=/)x(?=/|$)", "{}", url) for url in went} <= {path}, name
    assert driven >= 0.6 * len(by_path)


@pytest.mark.parametrize("sdk", OTHERS)
def test_the_methods_of_other_generators_are_those_of_a_client_too(sdk: str) -> None:
    methods, provider = _methods(installed(sdk)), str(OTHERS[sdk])
    names = {name for found in [*methods.posts.values(), methods.connects] for name in found}
    client = Wire().client(provider, False)
    faces = [client, getattr(client, "aio", client)]
    assert {name for name in names if not any(reached(face, name) for face in faces)} == set()


def reached(client: Any, name: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some say that they are experimental
            return callable(at(client, name))
    except (Missing, ImportError):  # of a package that websockets need
        return False


NEW_SDK = '''
class Thoughts(SyncAPIResource):
    def create(self, *, model: str) -> Thought:
        return self._post("/thoughts", body={"model": model}, cast_to=Thought)

    def ask(self, thought_id: str) -> Thought:
        return self._post(  # type: ignore
            path_template("/thoughts/{thought_id}/ask", thought_id=thought_id), cast_to=Thought
        )

    def old(self, thought_id: str) -> Thought:
        return self._post(f"/thoughts/{thought_id}/old?beta=true", cast_to=Thought)

    def search(self) -> SyncPage[Thought]:
        return self._get_api_list("/thoughts/search", page=SyncPage[Thought], method="post", model=Thought)

    def list(self) -> SyncPage[Thought]:
        return self._get_api_list("/thoughts", page=SyncPage[Thought], model=Thought)

    def retrieve(self) -> Thought:
        return self._get("/thoughts/x", cast_to=Thought)

    def hidden(self, path: str) -> Thought:
        return self._post(path, cast_to=Thought)

    def connect(self, *, model: str) -> ThoughtsConnectionManager:
        """Connect."""

class AsyncThoughts(AsyncAPIResource):
    async def create(self, *, model: str) -> Thought:
        return await self._post("/thoughts", body={"model": model}, cast_to=Thought)

    async def only_here(self) -> Thought:
        return await self._post("/thoughts/async", cast_to=Thought)
'''


@pytest.fixture
def new_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Methods:
    folder = tmp_path / "fresh_sdk" / "resources" / "thoughts"
    folder.mkdir(parents=True)
    (tmp_path / "fresh_sdk" / "__init__.py").touch()
    (folder / "thoughts.py").write_text(NEW_SDK)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return methods_of("fresh_sdk")


def test_a_method_that_is_new_in_an_sdk_is_noticed_by_name(new_sdk: Methods) -> None:
    assert unclassified(Provider.OPENAI, new_sdk) == {
        "POST /thoughts": ["thoughts.create"],
        "POST /thoughts/{}/ask": ["thoughts.ask"],
        "POST /thoughts/{}/old": ["thoughts.old"],
        "POST /thoughts/search": ["thoughts.search"],
        "POST /thoughts/async": ["thoughts.only_here"],
        "thoughts.connect()": ["thoughts.connect"],
    }
    assert new_sdk.unread == ("thoughts.hidden",)


SPEAKEASY = '''
class Fresh(BaseSDK):
    thoughts: "Thoughts"

class Thoughts(BaseSDK):
    def ask(self, *, id: str) -> Thought:
        req = self._build_request(
            method="POST",
            path="/v1/thoughts/{id}#stream",
        )

    async def ask_async(self, *, id: str) -> Thought:
        req = self._build_request_async(
            method="POST",
            path="/v1/thoughts/{id}",
        )

    def hidden(self) -> Thought:
        req = self._build_request(method="POST", path=PATH)

    async def connect(self) -> Connection:
        """Connect."""
'''

GENAI = '''
class Client:
  @property
  def thoughts(self) -> Thoughts:
    return Thoughts(self._api_client)

class Thoughts(_api_module.BaseModule):
  def _ask(self, *, id: str) -> Thought:
    path = '{id}:askNow'.format_map(url)
    response = self._api_client.request(
        'post', path, request_dict, http_options
    )

  def ask(self, *, id: str) -> Thought:
    return self._ask(id=id)

  def hidden(self) -> Thought:
    return self._api_client.request('post', PATH)

  def list(self) -> Thought:
    path = 'thoughts'
    return self._api_client.request('get', path)

  async def connect(self) -> Connection:
    """Connect."""
'''

FERN = """
class RawThoughtsClient:
    def ask(self, id: str) -> HttpResponse[Thought]:
        _response = self._client_wrapper.httpx_client.request(
            f"v1/thoughts/{encode_path_param(id)}",
            method="POST",
        )

    def hidden(self) -> HttpResponse[Thought]:
        _response = self._client_wrapper.httpx_client.request(PATH, method="POST")

    def get(self) -> HttpResponse[Thought]:
        _response = self._client_wrapper.httpx_client.request("v1/thoughts", method="GET")
"""


@pytest.mark.parametrize(
    ("module", "source", "path", "connects"),
    [
        ("client/sdk.py", SPEAKEASY, "/v1/thoughts/{}", ("thoughts.connect",)),
        ("client.py", GENAI, "/{}:askNow", ("thoughts.connect",)),
        ("thoughts/raw_client.py", FERN, "/v1/thoughts/{}", ()),
    ],
)
def test_so_is_one_of_an_sdk_of_another_generator(
    module: str, source: str, path: str, connects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"fresh_{module.count('/')}{len(source)}"
    file = tmp_path / name / module
    file.parent.mkdir(parents=True)
    file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert methods_of(name) == Methods({path: ("thoughts.ask",)}, connects, ("thoughts.hidden",))


def test_an_sdk_that_is_not_installed_has_no_methods() -> None:
    assert methods_of("no_such_sdk") == Methods({}, (), ())
    assert sdk_version("no_such_sdk") is None


# -- the report --------------------------------------------------------------------------------------------


def row(name: str, provider: str = "openai") -> CoverageRow:
    (found,) = [row for row in tokencap.coverage().rows if (row.provider, row.name) == (provider, name)]
    return found


def test_the_report_has_every_row_of_every_table_once() -> None:
    report = tokencap.coverage()
    assert isinstance(report, Coverage)
    assert len({(row.provider, row.name) for row in report.rows}) == len(report.rows)
    for provider, module in PROVIDERS.items():
        names = {row.name for row in report.rows if row.provider == provider.value}
        assert {f"{endpoint.method.upper()} {endpoint.path}" for endpoint in module.ENDPOINTS} <= names
        assert {f"POST {path}" for path in module.FREE} <= names


def test_the_report_says_of_each_method_whether_it_is_counted() -> None:
    messages = row("POST /v1/messages", "anthropic")
    assert messages.status is CoverageStatus.TRACKED
    assert {"messages.create", "messages.stream", "beta.messages.create"} <= set(messages.methods)
    assert row("POST /chat/completions").status is CoverageStatus.TRACKED
    assert row("POST /moderations").status is CoverageStatus.FREE
    assert row("POST /batches")[1:4:2] == (CoverageStatus.NOT_SEEN, ("batches.create",))
    assert row("realtime.connect()").status is CoverageStatus.NOT_SEEN
    assert "websocket" in row("realtime.connect()").note


def test_the_report_names_the_versions_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    report = tokencap.coverage()
    assert report.sdks["anthropic"] == importlib.import_module("anthropic").__version__
    assert report.sdks["openai"] == importlib.import_module("openai").__version__
    assert f"openai {report.sdks['openai']}" in str(report).splitlines()[0]

    monkeypatch.setattr(_coverage, "sdk_version", lambda package: None)
    monkeypatch.setattr(_coverage, "methods_of", lambda package: Methods({}, (), ()))
    bare = tokencap.coverage()
    assert bare.sdks == {}
    assert str(bare).startswith("coverage for no SDK installed")
    assert not any(row.methods for row in bare.rows)
    assert len(bare.rows) == len(report.rows)


def test_the_report_prints_as_a_table() -> None:
    text = str(tokencap.coverage())
    for expected in ("tracked (", "free (", "not seen (", "POST /v1/messages", "responses.connect()"):
        assert expected in text
    assert re.search(r"openai +POST /embeddings +embeddings\.create$", text, re.MULTILINE)


def test_a_place_in_no_table_is_reported_as_such(new_sdk: Methods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _coverage, "methods_of", lambda package: new_sdk if package == "openai" else _methods(package)
    )
    assert row("POST /thoughts/{}/ask")[1:4:2] == (CoverageStatus.UNKNOWN, ("thoughts.ask",))
    assert row("thoughts.connect()").status is CoverageStatus.UNKNOWN
    assert "unknown (" in str(tokencap.coverage())


# -- what passed in this process ---------------------------------------------------------------------------


def post(client: Any, path: str, is_async: bool) -> None:
    drive(done(client.post(path, cast_to=object, body={"model": "m", "messages": []})), is_async)


def test_requests_that_no_budget_is_charged_for_are_counted_by_where_they_went(is_async: bool) -> None:
    wire = Wire()
    answer = lambda request: reply_json({"id": "x"})  # noqa: E731
    for path in ("thoughts", "thoughts/th_[0-9]*/ask", "batches", "files", "moderations"):
        wire.answers["POST", f"/v1/{path}"] = answer
    with Guard(Policy.tracking(), backend=MemoryBackend(), otel_enabled=False) as guard:
        plain = wire.client("openai", is_async)
        client = guard.wrap(plain)
        post(client, "/thoughts", is_async)
        for number in range(3):
            post(client, f"/thoughts/th_{number}/ask", is_async)
        post(client, "/batches", is_async)
        for free in ("/files", "/moderations", "/chat/completions"):
            post(client, free, is_async)
        post(plain, "/thoughts", is_async)
        drive(done(client.models.retrieve("gpt-5")), is_async)

    assert {(row.name, row.status.value): row.calls for row in tokencap.coverage().rows if row.calls} == {
        ("POST /thoughts", "unknown"): 1,
        ("POST /thoughts/{}/ask", "unknown"): 3,
        ("POST /batches", "not seen"): 1,
    }
    assert "3 requests in this process" in str(tokencap.coverage())


@pytest.mark.parametrize(
    ("kind", "path", "place"),
    [
        ("gemini", "models/m:batchGenerateContent", "POST /{}:batchGenerateContent"),
        ("mistral", "/v1/batch/jobs", "POST /batch/jobs"),
        ("cohere", "v1/embed-jobs", "POST /v1/embed-jobs"),
    ],
)
def test_so_are_those_of_the_other_sdks(kind: str, path: str, place: str, is_async: bool) -> None:
    wire = Wire()
    wire.answers["POST", f".*/{path.lstrip('/')}"] = lambda request: reply_json({})
    try:
        plain = wire.client(kind, is_async)
    except Missing as missing:
        pytest.skip(str(missing))
    with Guard(Policy.tracking(), backend=MemoryBackend(), otel_enabled=False) as guard:
        drive(KINDS[kind].post(guard.wrap(plain), path, {}, is_async), is_async)
    assert {row.name: row.calls for row in tokencap.coverage().rows if row.calls} == {place: 1}


def test_places_that_are_made_up_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "_MOST", 3)
    letters = "abcdef"
    for letter in letters + letters:
        passing.note_passing(Provider.OPENAI, "POST", f"/odd/{letter}")
    assert {place.name: count for place, count in passing.passed().items()} == {
        "POST /odd/a": 2,
        "POST /odd/b": 2,
        "POST /odd/c": 2,
    }


@pytest.mark.parametrize(
    ("provider", "path", "name"),
    [
        (Provider.OPENAI, "https://api.openai.com/v1/batches?after=5", "POST /batches"),
        (Provider.OPENAI, "/v1/vector_stores/vs_1/files", "POST /vector_stores ..."),
        (Provider.OPENAI, "/files", "POST /files ..."),
        (Provider.OPENAI, "/openai/deployments/gpt-x/chat/completions", "POST /chat/completions"),
        (Provider.OPENAI, "/openai/files", "POST /files ..."),
        (Provider.OPENAI, "/threads/t/runs", "POST /threads/{}/runs"),
        (Provider.OPENAI, "/threads/t/messages", "POST /threads ..."),
        (Provider.ANTHROPIC, "/v1/sessions/s/events", "POST /v1/sessions/{}/events"),
        (Provider.ANTHROPIC, "/v1/organizations/a/b/c", "POST /v1/organizations ..."),
        (Provider.ANTHROPIC, "/v1/odd/msg_01AbC/ask", "POST /v1/odd/{}/ask"),
        (Provider.ANTHROPIC, "/v1/odd/" + "a" * 40, "POST /v1/odd/{}"),
        (Provider.GEMINI, "upload/{api_version}/files", "POST /upload/files ..."),
        (Provider.GEMINI, "projects/p/locations/l/tuningJobs/1:cancel", "POST /{}:cancel"),
        (Provider.GEMINI, "projects/p/locations/l/tuningJobs", "POST /tuningJobs"),
        (Provider.GEMINI, "projects/p/locations/l/odd/1", "POST /odd/{}"),
        (
            Provider.GEMINI,
            "upload/{api_version}/fileSearchStores/s:uploadToFileSearchStore",
            "POST /{}:uploadToFileSearchStore",
        ),
    ],
)
def test_a_path_belongs_to_the_row_that_says_most_of_it(provider: Provider, path: str, name: str) -> None:
    assert place_of(provider, path).name == name


# -- the page of the docs ----------------------------------------------------------------------------------


def test_the_page_is_what_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    table: Any = importlib.import_module("coverage_table")
    fresh, page = table.document(tokencap.coverage()), table.PAGE.read_text(encoding="utf-8")
    if {f"{name} {version}" in page for name, version in tokencap.coverage().sdks.items()} != {True}:
        # Another version of an SDK has other methods; the rows are the same.
        fresh, page = (
            re.sub(r"(?m)^((?:\|[^|]*){2}\|)[^|]*\||^.*for [a-z]+ \d.*$", r"\1", text)
            for text in (fresh, page)
        )
    assert page == fresh, "docs/coverage.md is stale: run `python scripts/coverage_table.py`"
    sys.modules.pop("coverage_table", None)
