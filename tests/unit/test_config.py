"""Configuration without code: what a file and the variables say, and what is said about their mistakes."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from calls import spend

import tokencap
from tokencap import BudgetExceededError, ConfigurationError, DimensionPolicy, Policy, Threshold
from tokencap._config import configuration
from tokencap._fields import POLICY, TOP, schema
from tokencap._toml import line_of, lines_of, parse, spelled
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.redis import RedisBackend
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.backends.urls import open_url
from tokencap.policy import Action, ResetPeriod

SHIPPED = Path(tokencap.__file__).parent / "tokencap.schema.json"

FULL = """\
backend = "sqlite:budgets.db"
providers = ["openai"]
wait = 2.5
on_backend_error = "allow"
ledger = false
otel = false
quiet = true

[identifiers]
session = "nightly"

[policy]
name = "production"
max_prompt_tokens = 50_000
max_output_tokens = 4_000
enforce = true

[policy.dimensions.session]
limit = 100_000
thresholds = [
    { at_pct = 0.5, actions = ["WARN"] },
    { at_pct = 0.8, actions = [
        { kind = "WARN", callback = "os.path:basename" },
        { kind = "WEBHOOK", webhook_url = "https://example.com/alerts" },
    ] },
    { at_pct = 0.9, actions = [{ kind = "DEGRADE", degrade_to = { openai = "gpt-4o-mini" } }] },
    { at_pct = 1.0, actions = ["BLOCK"] },
]

[policy.dimensions.tenant]
limit = { acme = 1_000_000, "*" = 10_000 }
strict = true
required = true
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TOKENCAP_"):
            monkeypatch.delenv(name)


@pytest.fixture
def no_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python before 3.11 is, until tomli is installed."""
    for module in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, module, None)


def write(text: str, name: str = "tokencap.toml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


# -- files -------------------------------------------------------------------------------------------------


def test_a_file_says_all_that_code_can() -> None:
    from tokencap._read import log_status

    policy = Policy.from_file(write(FULL))
    assert policy == Policy(
        {
            "session": DimensionPolicy(
                100_000,
                [
                    Threshold(0.5, [Action("WARN", callback=log_status)]),
                    Threshold(
                        0.8,
                        [
                            Action("WARN", callback=os.path.basename),
                            Action("WEBHOOK", webhook_url="https://example.com/alerts"),
                        ],
                    ),
                    Threshold(0.9, [Action("DEGRADE", degrade_to={"openai": "gpt-4o-mini"})]),
                    Threshold(1.0, [Action("BLOCK")]),
                ],
            ),
            "tenant": DimensionPolicy({"acme": 1_000_000, "*": 10_000}, strict=True, required=True),
        },
        name="production",
        max_prompt_tokens=50_000,
        max_output_tokens=4_000,
    )


def test_init_without_arguments_reads_it() -> None:
    write(FULL)
    guard = tokencap.init()
    assert guard.policy.name == "production"
    assert guard.identifiers == {"session": "nightly"}
    assert guard.backend.name == "sqlite:budgets.db"
    assert (guard.runtime.wait, guard.runtime.on_backend_error) == (2.5, "allow")
    assert not guard.runtime.ledger
    assert not guard.runtime.observed


def test_the_short_form_blocks() -> None:
    write("limit = 100\nbackend = 'memory:'\n")
    guard = tokencap.init()
    spend(guard, 100)
    with pytest.raises(BudgetExceededError):
        spend(guard, 1)
    assert Policy.from_file("tokencap.toml") == Policy.blocking(100)


def test_a_table_in_pyproject_says_the_same() -> None:
    write('[project]\nname = "app"\n', "pyproject.toml")
    assert configuration().sources == ()
    write('[project]\nname = "app"\n\n[tool.tokencap]\nlimit = 7\n', "pyproject.toml")
    assert configuration().policy == Policy.blocking(7)
    assert Policy.from_file("pyproject.toml") == Policy.blocking(7)
    write("limit = 8\n")
    assert configuration().policy == Policy.blocking(8)


def test_a_pyproject_of_others_is_not_even_parsed() -> None:
    write("this is not TOML", "pyproject.toml")
    assert configuration().sources == ()


@pytest.mark.parametrize(
    "text",
    [
        '[project]\ndependencies = ["tokencap[openai]"]\n',
        '[tool.uv.sources]\ntokencap = { path = "../tokencap" }\n',
        '[tool.mypy]\nfiles = ["tokencap.py"]\n# tool.tokencap\n',
    ],
)
def test_nor_is_one_that_only_names_it(text: str, no_toml: None) -> None:
    """Python before 3.11 has no TOML of its own, and a dependency is no configuration."""
    write(text, "pyproject.toml")
    assert configuration().sources == ()


@pytest.mark.parametrize(
    "text",
    [
        "[tool.tokencap]\nlimit = 7\n",
        "  [ tool . 'tokencap' ]\nlimit = 7\n",
        "[tool.tokencap.policy.dimensions.session]\n",
        "tool.tokencap.limit = 7\n",
        "[tool]\ntokencap.limit = 7\n",
        "tool = { tokencap = { limit = 7 } }\n",
    ],
)
def test_one_that_configures_it_is_not_passed_over(text: str, no_toml: None) -> None:
    write(text, "pyproject.toml")
    with pytest.raises(ConfigurationError, match="pip install"):
        configuration()


def test_a_variable_names_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("limit = 8\n")
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("TOKENCAP_CONFIG", write("limit = 9\n", str(tmp_path / "other" / "budgets.toml")))
    assert configuration().policy == Policy.blocking(9)
    monkeypatch.setenv("TOKENCAP_CONFIG", "nowhere.toml")
    with pytest.raises(ConfigurationError, match=r"TOKENCAP_CONFIG: nowhere\.toml cannot be read"):
        configuration()


def test_without_any_configuration_nothing_is_configured() -> None:
    assert configuration() == configuration()
    assert configuration().policy is None
    assert tokencap.init(backend=MemoryBackend()).policy == Policy.tracking()


def test_a_limit_may_be_a_function_by_name() -> None:
    write('[policy.dimensions.word]\nlimit = "builtins:len"\n')
    policy = Policy.from_file("tokencap.toml")
    assert policy.dimensions["word"].limit_for("four") == 4


def test_windows_are_said_as_times_and_spans() -> None:
    write(
        "[policy.dimensions.day]\nlimit = 5\n"
        "reset_every = 'day'\ntimezone = 'Europe/Berlin'\nreset_at = '06:00'\n"
        "[policy.dimensions.hour]\nlimit = 5\nwindow = '1h'\n"
        "[policy.dimensions.minute]\nlimit = 5\nwindow = 60\n"
    )
    dimensions = Policy.from_file("tokencap.toml").dimensions
    assert dimensions["day"] == DimensionPolicy(
        5, reset_every=ResetPeriod.DAY, timezone="Europe/Berlin", reset_at="06:00"
    )
    assert [dimensions[name].window for name in ("hour", "minute")] == [
        timedelta(hours=1),
        timedelta(minutes=1),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("window = 'long'", "window: it is 'long'; it must be a length of time"),
        ("window = true", "window: it is True; it must be a length of time"),
        ("reset_every = 'year'", "reset_every: it is 'year'; accepted are 'minute', 'hour'"),
        ("reset_at = '06:00'", "reset_at: reset_at= was given without reset_every="),
    ],
)
def test_a_bad_window_is_said_with_its_line(line: str, said: str) -> None:
    write(f"[policy.dimensions.a]\nlimit = 5\n{line}\n")
    with pytest.raises(ConfigurationError) as caught:
        configuration()
    assert str(caught.value).startswith(f"tokencap.toml:3: policy.dimensions.a.{said}")


def test_a_warning_without_a_function_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    write('[policy.dimensions.session]\nlimit = 100\nthresholds = [{ at_pct = 0.5, actions = ["WARN"] }]\n')
    guard = tokencap.init(backend=MemoryBackend())
    with caplog.at_level(logging.WARNING, "tokencap"):
        spend(guard, 60)
    assert [record.message for record in caplog.records] == ["session: 60 of 100 tokens used (60%)"]


# -- who wins ----------------------------------------------------------------------------------------------


def test_a_variable_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("limit = 8\nwait = 1\nidentifiers = { session = 'a' }\n")
    monkeypatch.setenv("TOKENCAP_LIMIT", "5_000")
    monkeypatch.setenv("TOKENCAP_STRICT", "yes")
    monkeypatch.setenv("TOKENCAP_WAIT", "0.5")
    monkeypatch.setenv("TOKENCAP_IDENTIFIERS", "session = b")
    found = configuration()
    assert found.policy == Policy.blocking(5_000, strict=True)
    assert (found.wait, found.identifiers) == (0.5, {"session": "b"})
    assert found.sources == (
        "tokencap.toml",
        "TOKENCAP_LIMIT",
        "TOKENCAP_STRICT",
        "TOKENCAP_IDENTIFIERS",
        "TOKENCAP_WAIT",
    )


def test_variables_change_the_policy_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FULL)
    monkeypatch.setenv("TOKENCAP_ENFORCE", "false")
    monkeypatch.setenv("TOKENCAP_MAX_PROMPT_TOKENS", "10")
    policy = configuration().policy
    assert policy is not None
    assert (policy.enforce, policy.max_prompt_tokens, policy.max_output_tokens) == (False, 10, 4_000)
    assert list(policy.dimensions) == ["session", "tenant"]


def test_variables_alone_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENCAP_MAX_OUTPUT_TOKENS", "10")
    monkeypatch.setenv("TOKENCAP_BACKEND", "memory:")
    guard = tokencap.init()
    assert guard.policy == Policy({"session": DimensionPolicy()}, max_output_tokens=10)
    assert guard.backend.name == "memory"


def test_an_argument_wins_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    write("limit = 8\nbackend = 'memory:'\nwait = 3\n")
    monkeypatch.setenv("TOKENCAP_LIMIT", "9")
    backend = MemoryBackend()
    guard = tokencap.init(Policy.blocking(10), {"session": "mine"}, backend, wait=1.0)
    assert guard.policy == Policy.blocking(10)
    assert guard.identifiers == {"session": "mine"}
    assert guard.backend is backend
    assert guard.runtime.wait == 1.0


def test_wrap_and_patch_take_what_is_configured_and_say_so(capsys: Any, monkeypatch: Any) -> None:
    import openai

    write("limit = 8\nbackend = 'memory:'\nproviders = ['openai']\n")
    monkeypatch.setenv("TOKENCAP_STRICT", "1")
    with openai.OpenAI(api_key="none") as client:
        client = tokencap.wrap(client)
        assert client.get_status().dimensions["session"].limit == 8
        printed = capsys.readouterr().out
        assert printed.endswith(
            "backend=memory limit=8 tokens\n[tokencap] configured by tokencap.toml, TOKENCAP_STRICT\n"
        )
        tokencap.teardown()
        tokencap.patch(limit=50)
    assert capsys.readouterr().out.startswith(
        "[tokencap] patched: openai\n           backend=memory limit=50 "
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "tokencap.toml, TOKENCAP_ENFORCE, TOKENCAP_BACKEND"),
        ({"policy": Policy.blocking(5)}, "tokencap.toml, TOKENCAP_BACKEND"),
        ({"policy": Policy.blocking(5), "backend": MemoryBackend()}, "tokencap.toml"),
        ({"policy": Policy.blocking(5), "backend": MemoryBackend(), "identifiers": {"session": "x"}}, ""),
    ],
)
def test_what_an_argument_says_is_not_said_to_be_configured(
    arguments: dict[str, Any], said: str, capsys: Any, monkeypatch: Any
) -> None:
    import openai

    write("limit = 8\n[identifiers]\nsession = 's'\n")
    monkeypatch.setenv("TOKENCAP_ENFORCE", "no")
    monkeypatch.setenv("TOKENCAP_BACKEND", "memory:")
    tokencap.init(**arguments)
    with openai.OpenAI(api_key="none") as client:
        tokencap.wrap(client)
    lines = capsys.readouterr().out.splitlines()[1:]
    found = [line.partition("configured by ")[2] for line in lines]
    assert sorted(", ".join(found).split(", ")) == sorted(said.split(", "))


def test_a_guard_of_ones_own_reads_nothing() -> None:
    write("limit = 8\n")
    with tokencap.Guard(Policy.tracking(), backend=MemoryBackend()) as guard:
        assert guard.policy == Policy.tracking()


# -- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limit = 0", "1: limit: it is 0; it must be at least 1"),
        ("\n\nlimit = '5'", "3: limit: it is '5'; it must be a whole number"),
        ("limit =", "1: this is not TOML"),
        ("limt = 5", "1: limt: there is no such key; did you mean 'limit'?"),
        ("xyz = 5", "1: xyz: there is no such key; known are limit, strict, policy"),
        ("wait = -1", "1: wait: it is -1; it must be a number of seconds, at least 0"),
        ("wait = 1e5", "1: wait: it is 100000.0; it must be a number of seconds, at least 0 and at most"),
        ("quiet = 'no'", "1: quiet: it is 'no'; it must be true or false"),
        ("on_backend_error = 'stop'", "1: on_backend_error: it is 'stop'; accepted are 'block', 'allow'"),
        ("providers = ['openai', 'grok']", "1: providers: one of it is 'grok'; accepted are 'anthropic'"),
        ("providers = 'openai'", "1: providers: it is 'openai'; it must be a list"),
        ("identifiers = { session = 5 }", "1: identifiers: 'session' is 5"),
        ("policy = 5", "1: policy: it is 5; it must be a table"),
        ("[policy]\nname = 'x'", "1: policy: 'dimensions' must be said"),
        ("[policy]\n\ndimensions = {}", "3: policy.dimensions: dimensions is {}"),
        (
            "[@]\nlimit = 5\nstrct = true",
            "3: @.strct: there is no such key",
        ),
        ("[@]\nlimit = -5", "2: @.limit: limit is -5"),
        (
            "[@]\nlimit = { x = 5 }",
            "2: @.limit: limit is {'x': 5}; a limit",
        ),
        (
            "[@]\nlimit = 'no.such:thing'",
            "2: @.limit: 'no.such:thing' cannot",
        ),
        ("[@]\nlimit = 'os:sep'", "2: @.limit: 'os:sep' is no function"),
        (
            "[@]\nlimit = 'os'",
            "2: @.limit: it is 'os'; a function is named",
        ),
        (
            "[@]\nstrict = true",
            "2: @.strict: strict=True was given without",
        ),
        (
            "[@~]\nlimit = 5\nthresholds = [\n  { at_pct = 0.5, actions = ['BLOCK'] },\n"
            "  { at_pct = 1.5, actions = ['BLOCK'] },\n]",
            "5: @~.thresholds[1].at_pct: at_pct is 1.5",
        ),
        (
            "[@]\nlimit = 5\n[[@.thresholds]]\nat_pct = 0.5\nactions = ['WARN']\n"
            "[[@.thresholds]]\nat_pct = 0.6\nactions = [\n  'WARN',\n  'STOP',\n]",
            "10: @.thresholds[1].actions[1].kind: it is 'STOP'; accepted are 'WARN'",
        ),
        (
            "[@]\nlimit = 5\nthresholds = [{ at_pct = 1 }]",
            "3: @.thresholds[0]: 'actions' must be said",
        ),
        (
            "[@]\nlimit = 5\n"
            "thresholds = [{ at_pct = 1, actions = [{ kind = 'DEGRADE', degrade_to = '' }] }]",
            "3: @.thresholds[0].actions[0]: a DEGRADE action needs degrade_to=",
        ),
    ],
)
def test_a_mistake_is_said_with_file_line_and_key(text: str, said: str) -> None:
    # Short for two dimensions.
    text, said = (
        one.replace("@~", "policy.dimensions.'my tenant'").replace("@", "policy.dimensions.a")
        for one in (text, said)
    )
    write(text)
    with pytest.raises(ConfigurationError) as caught:
        configuration()
    assert str(caught.value).startswith(f"tokencap.toml:{said}")


def test_a_mistake_in_pyproject_is_found_in_its_table() -> None:
    write('[project]\nname = "app"\n[tool.tokencap]\nlimit = 0\n', "pyproject.toml")
    with pytest.raises(ConfigurationError, match=r"^pyproject\.toml:4: tool\.tokencap\.limit: it is 0"):
        tokencap.init()


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("TOKENCAP_LIMIT", "many", "it is 'many'; it must be a whole number"),
        ("TOKENCAP_LIMIT", "0", "it is 0; it must be at least 1"),
        ("TOKENCAP_WAIT", "soon", "it is 'soon'; it must be a number"),
        ("TOKENCAP_QUIET", "maybe", "it is 'maybe'; it must be true or false"),
        ("TOKENCAP_PROVIDERS", "openai,grok", "one of it is 'grok'"),
        ("TOKENCAP_IDENTIFIERS", "acme", "it is 'acme'; it must be like 'tenant=acme'"),
        ("TOKENCAP_IDENTIFIERS", "tenant=acme,", "it is 'tenant=acme,'; it must be like"),
        ("TOKENCAP_ON_BACKEND_ERROR", "stop", "it is 'stop'; accepted are"),
        ("TOKENCAP_STRICT", "true", "it goes with limit"),
    ],
)
def test_a_mistake_in_a_variable_is_said_with_its_name(
    variable: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError) as caught:
        tokencap.init()
    assert str(caught.value).startswith(f"{variable}: {said}")


def test_two_policies_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FULL)
    monkeypatch.setenv("TOKENCAP_LIMIT", "5")
    with pytest.raises(
        ConfigurationError, match=r"^TOKENCAP_LIMIT: there is a policy too \(tokencap.toml:12: policy\)"
    ):
        configuration()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backend = 'mysql://u:secret@h'", "1: backend: backend is of the kind 'mysql'"),
        ("limit = 5\nidentifiers = { tenant = 'acme' }", "2: identifiers: identifiers names 'tenant', which"),
    ],
)
def test_what_does_not_fit_is_said_when_the_guard_is_made(text: str, said: str) -> None:
    write(text)
    with pytest.raises(ConfigurationError) as caught:
        tokencap.init()
    assert str(caught.value).startswith(f"tokencap.toml:{said}")
    assert "secret" not in str(caught.value)


def test_a_file_without_a_policy_is_no_policy() -> None:
    with pytest.raises(ConfigurationError, match="there is no policy in it"):
        Policy.from_file(write("quiet = true\n"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Policy.from_file("missing.toml")


def test_an_unknown_variable_is_warned_of(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TOKENCAP_LIMTI", "5")
    with caplog.at_level(logging.WARNING, "tokencap"):
        configuration()
    assert "TOKENCAP_LIMTI means nothing to tokencap; did you mean TOKENCAP_LIMIT?" in caplog.text


def test_a_python_that_cannot_read_toml_is_told_what_to_install(no_toml: None) -> None:
    with pytest.raises(ConfigurationError, match=r'pip install "tokencap\[config\]"'):
        Policy.from_file(write("limit = 5\n"))
    # A project that configures other tools only needs none of it.
    os.remove("tokencap.toml")
    write('[project]\nname = "app"\n', "pyproject.toml")
    assert configuration().policy is None


# -- lines -------------------------------------------------------------------------------------------------

TRICKY = '''\
# [not] = "a table"
a = "# no comment ]"
b.c = [ 1, # one ]
  2, "x\\"]", [
  3] ]
"d.e" = { f = 1, "g ]" = [ { h = 2 },
  { h = 3 } ] }
i = """
[j]
k = 1
"""
l = \'\'\'
m = 1\'\'\'

[ n . "o" ] # a table
p = 2021-01-01 00:00:00
[[q]]
r = 1
[[q]]
r = 2
[q.s]
t = 3
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("b", "c"), 3),
        (("b", "c", 1), 4),
        (("b", "c", 3, 0), 5),
        (("d.e", "f"), 6),
        (("d.e", "g ]", 1, "h"), 7),
        (("i",), 8),
        (("l",), 12),
        (("n", "o"), 15),
        (("n", "o", "p"), 16),
        (("q", 0, "r"), 18),
        (("q", 1, "r"), 20),
        (("q", 1, "s", "t"), 22),
        # The nearest around what is not there.
        (("n", "o", "missing", "deep"), 15),
        (("missing",), None),
    ],
)
def test_every_key_has_its_line(path: Any, line: int | None) -> None:
    parse(TRICKY, "tricky")
    assert line_of(lines_of(TRICKY), path) == line


def test_every_key_that_the_parser_finds_has_a_line_that_names_it() -> None:
    def walk(value: Any, path: Any) -> Any:
        yield path
        if isinstance(value, dict):
            for name, one in value.items():
                yield from walk(one, (*path, name))
        elif isinstance(value, list):
            for number, one in enumerate(value):
                yield from walk(one, (*path, number))

    for text in (TRICKY, FULL, (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")):
        lines = lines_of(text)
        found = [path for path in walk(parse(text, "x"), ()) if path]
        assert set(found) <= set(lines), set(found) - set(lines)
        for path in found:
            if isinstance(path[-1], str):
                assert path[-1] in text.splitlines()[lines[path] - 1]


def test_a_path_is_written_as_toml_has_it() -> None:
    assert spelled(("policy", "dimensions", "my tenant", "thresholds", 0)) == (
        "policy.dimensions.'my tenant'.thresholds[0]"
    )


# -- stores by name ----------------------------------------------------------------------------------------


def test_a_store_is_opened_by_its_name(tmp_path: Path) -> None:
    for text in ("sqlite:a.db", "a.db", "sqlite://a.db"):
        backend = open_url(text)
        assert isinstance(backend, SQLiteBackend)
        assert backend.name == "sqlite:a.db"
    assert isinstance(open_url("memory:"), MemoryBackend)
    for text in ("redis://localhost:6379/0", "rediss://h:1/2#mine", "redis+cluster://h:1"):
        assert isinstance(open_url(text), RedisBackend)
    assert not Path("a.db").exists()


@pytest.mark.parametrize("text", ["", " ", "sqlite:", "postgres://h/db", None])
def test_a_name_of_no_store_is_refused(text: Any) -> None:
    with pytest.raises(ConfigurationError, match="accepted are 'sqlite:PATH'"):
        open_url(text)


# -- the schema --------------------------------------------------------------------------------------------


def test_the_schema_that_ships_is_that_of_the_fields() -> None:
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == schema(), (
        "run: python -m tokencap._fields > src/tokencap/tokencap.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_fields_are_the_arguments_of_the_policy() -> None:
    import dataclasses

    for kind, table in ((Policy, POLICY), (DimensionPolicy, tokencap._fields.DIMENSION)):
        assert set(table) == {field.name for field in dataclasses.fields(kind)}
    assert set(tokencap._fields.THRESHOLD) == {field.name for field in dataclasses.fields(Threshold)}
    assert set(tokencap._fields.ACTION) == {field.name for field in dataclasses.fields(Action)}


def accepted(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(schema()).is_valid(parse(text, "x")))


def test_the_schema_accepts_what_is_read() -> None:
    for text in (FULL, "", "limit = 5\nstrict = true", "[policy.dimensions.a]\nlimit = 'a:b'"):
        assert accepted(text)


@pytest.mark.parametrize(
    "text",
    [
        "limit = 0",
        "limt = 5",
        "wait = -1",
        "quiet = 'no'",
        "on_backend_error = 'stop'",
        "providers = ['grok']",
        "providers = []",
        "identifiers = { session = 5 }",
        "[policy]\nname = 'x'",
        "policy = { dimensions = {} }",
        "[policy.dimensions.a]\nlimit = { x = 5 }",
        "[policy.dimensions.a]\nlimit = 'os'",
        "[policy.dimensions.a]\nlimit = 5\nthresholds = [{ at_pct = 1.5, actions = ['BLOCK'] }]",
        "[policy.dimensions.a]\nlimit = 5\nthresholds = [{ at_pct = 1, actions = ['STOP'] }]",
        "[policy.dimensions.a]\nlimit = 5\nthresholds = [{ at_pct = 1 }]",
    ],
)
def test_the_schema_and_the_reader_refuse_the_same(text: str) -> None:
    assert not accepted(text)
    write(text)
    with pytest.raises(ConfigurationError):
        configuration()


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = {
        "TOKENCAP_LIMIT": "5",
        "TOKENCAP_STRICT": "true",
        "TOKENCAP_IDENTIFIERS": "session=a",
        "TOKENCAP_BACKEND": "memory:",
        "TOKENCAP_PROVIDERS": "openai, anthropic, litellm",
        "TOKENCAP_WAIT": "1",
        "TOKENCAP_ON_BACKEND_ERROR": "allow",
        "TOKENCAP_LEDGER": "off",
        "TOKENCAP_OTEL": "off",
        "TOKENCAP_QUIET": "on",
        "TOKENCAP_MAX_PROMPT_TOKENS": "1",
        "TOKENCAP_MAX_OUTPUT_TOKENS": "2",
        "TOKENCAP_MIN_OUTPUT_TOKENS": "3",
        "TOKENCAP_ENFORCE": "no",
    }
    assert set(examples) == {f.variable for f in (*TOP.values(), *POLICY.values()) if f.variable}
    for variable, text in examples.items():
        monkeypatch.setenv(variable, text)
    found = configuration()
    assert set(found.sources) == set(examples)
    assert found.policy is not None
    assert (found.policy.max_prompt_tokens, found.policy.min_output_tokens) == (1, 3)
    assert (found.ledger, found.otel, found.quiet) == (False, False, True)
    assert found.providers == ("openai", "anthropic", "litellm")
    assert found.policy.dimensions["session"].strict
