"""`tokencap run`: apps that know nothing of tokencap, under a budget, with their child processes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command import place_of

import tokencap
from tokencap._loopback import LoopbackProvider
from tokencap.cli.guarding import PACKAGES
from tokencap.cli.run import split
from tokencap.cli.store import opened
from tokencap.clients.family import families
from tokencap.ledger import Ledger

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and scripts as on Unix")

# Without collections an SDK is loaded sooner.
CALL = """
import gc; gc.disable()
import openai
client = openai.OpenAI(max_retries=0)
def call(n=1, text="[[input=100]][[output=10]]"):
    for _ in range(n):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": text}])
"""
RUN = [sys.executable, "-m", "tokencap", "run"]


def app(name: str, code: str) -> str:
    """Write an app into the directory of the test."""
    Path(name).write_text(CALL + textwrap.dedent(code))
    return name


def run(*argv: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *argv], capture_output=True, text=True, timeout=120, **kwargs)


def spent(backend: str = "tokencap.db", **where: str) -> tuple[int, int]:
    """Return calls and tokens in the ledger."""
    with opened(backend) as store:
        total = Ledger(store).usage(where=where).total
    return total.calls, total.tokens


class Seen(NamedTuple):
    """What was seen of a run, and of the provider."""

    run: subprocess.CompletedProcess[str]
    spent: tuple[int, int]
    billed: tuple[int, int]
    customized: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, _server: LoopbackProvider) -> Seen:
    """A run of an app that looks around, makes two calls, and two requests that nobody can count."""
    code = """
        import importlib, importlib.resources, inspect, sys, sitecustomize
        print(sys.customized, sitecustomize.__file__)
        print(type(openai.__spec__.loader).__name__, type(openai.__loader__).__name__)
        assert importlib.resources.files("openai").joinpath("py.typed").is_file()
        assert "OpenAI" in inspect.getsource(openai)
        importlib.reload(openai)
        import os
        def unseen():
            try: client.post("/batches", body={}, cast_to=object)
            except openai.NotFoundError: pass
        if os.fork() == 0:
            unseen()
            os._exit(0)
        os.wait()
        unseen()
        call(2); print('hello')
    """
    site = tmp_path_factory.mktemp("site") / "sitecustomize.py"
    site.write_text("import sys\nsys.customized = __file__\n")
    _server.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("app"))
        environ = {**os.environ, **_server.environ, "PYTHONPATH": str(site.parent)}
        ended = run("--limit", "1000", "--", sys.executable, app("app.py", code), env=environ)
        return Seen(ended, spent(), (_server.calls, _server.tokens), str(site))


def test_an_app_is_guarded_with_no_line_changed(seen: Seen) -> None:
    assert (seen.run.returncode, seen.run.stdout.splitlines()[-1]) == (0, "hello"), seen.run.stderr
    first, second = seen.run.stderr.splitlines()[:2]
    assert first.endswith(": 220 tokens in 2 calls (gpt-5 220)")
    assert ": 220 of 1,000 tokens used (22.0 %), in sqlite:" in second
    assert seen.spent == (2, 220)
    assert seen.billed == (2 + 2, 220)


def test_a_limit_stops_it(loopback: LoopbackProvider) -> None:
    done = run("--limit", "250", "--", sys.executable, app("app.py", "call(9)"))
    assert done.returncode == 1
    assert "BudgetExceededError: budget exceeded" in done.stderr
    assert "330 tokens in 3 calls" not in done.stderr  # the refused one is a call, too
    assert "330 tokens in 4 calls (gpt-5 330), 1 blocked" in done.stderr
    assert (loopback.calls, loopback.tokens) == (3, 330)


def test_a_strict_limit_is_never_passed(loopback: LoopbackProvider) -> None:
    code = "call(9, '[[output=450]] and so on' * 10)"
    done = run("--limit", "1000", "--strict", "--", sys.executable, app("app.py", code))
    assert "BudgetExceededError" in done.stderr
    assert 500 < loopback.tokens <= 1_000
    assert run("--strict", "--", "true").returncode == 2


CHILDREN = """
    import multiprocessing, subprocess, sys, threading
    ways = sys.argv[1:]
    if not ways:
        call()
    elif __name__ == "__main__":
        call()
        for way in ways:
            if way == "subprocess":
                subprocess.run([sys.executable, "app.py"], check=True)
                continue
            kind = threading.Thread if way == "thread" else multiprocessing.get_context(way).Process
            child = kind(target=call)
            child.start(); child.join(); assert getattr(child, "exitcode", 0) == 0
"""


@pytest.mark.parametrize(
    ("kind", "ways"),
    [
        ("sqlite", ["thread", "fork", "spawn", "subprocess"]),
        pytest.param("redis", ["thread", "fork"], marks=pytest.mark.service),
    ],
)
def test_child_processes_count_on_the_same_budget(
    kind: str, ways: list[str], loopback: LoopbackProvider, tmp_path: Path
) -> None:
    command = [sys.executable, app("app.py", CHILDREN), *ways]
    done = run("--limit", "50k", "--backend", place_of(kind, tmp_path), "--json", "--", *command)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stderr)
    calls = 1 + len(ways)
    assert (summary["calls"], summary["tokens"]) == (calls, 110 * calls) == (loopback.calls, loopback.tokens)
    (budget,) = summary["budgets"]
    assert (budget["dimension"], budget["used"], budget["limit"]) == ("session", 110 * calls, 50_000)
    assert budget["reserved"] == 0
    assert summary["processes"] >= 1 + ("spawn" in ways) + ("subprocess" in ways)
    assert summary["sdks"] == ["openai"]


def test_modules_scripts_and_programs_are_run(tmp_path: Path) -> None:
    code = "import sys; print(*sys.argv[1:], __name__)"
    Path("plain.py").write_text(code)
    script = Path("tool")
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for argv, arguments in (
        (["-m", "plain", "--limit", "7"], "--limit 7 "),
        (["--limit", "1000", "-m", "plain"], ""),
        (["plain.py"], ""),
        (["--", "./tool", "--help"], "--help "),
        (["--limit=1000", "tool"], ""),
        (["sh", "-c", f"{sys.executable} plain.py x"], "x "),
    ):
        done = run(*argv, env=environ)
        assert (done.returncode, done.stdout) == (0, f"{arguments}__main__\n"), done.stderr
        assert "0 tokens: no SDK" in done.stderr  # one was guarded


@pytest.mark.parametrize(
    ("argv", "own", "rest"),
    [
        (
            ["--limit", "5", "python", "a.py", "--limit", "6"],
            ["--limit", "5"],
            ["python", "a.py", "--limit", "6"],
        ),
        (["--limit=5", "--quiet", "--", "--odd"], ["--limit=5", "--quiet"], ["--odd"]),
        (["-m", "mod", "--json"], [], ["-m", "mod", "--json"]),
        (["--", "--", "x"], [], ["--", "x"]),
        (["--help"], ["--help"], []),
        ([], [], []),
    ],
)
def test_the_command_begins_where_the_options_end(argv: list[str], own: list[str], rest: list[str]) -> None:
    assert split(argv) == (own, rest)


def test_standard_input_is_the_apps_own(loopback: LoopbackProvider) -> None:
    done = run("--", sys.executable, "-c", "print(input()[::-1])", input="abc\n")
    assert done.stdout == "cba\n"


# -- exit status and signals -----------------------------------------------------------------------------


def test_the_exit_status_is_the_apps_own(tmp_path: Path) -> None:
    for status in (0, 1, 7, 255):
        assert run("--quiet", "--", "sh", "-c", f"exit {status}").returncode == status
    assert run("--", "no-such-command").returncode == 127
    (tmp_path / "data").write_text("not a program")
    assert run("--", "./data").returncode == 126
    done = run()
    assert done.returncode == 2
    assert "tokencap run --limit 50000 -- python app.py" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_an_app_that_a_signal_killed_is_seen_to_be_killed_by_it(number: int) -> None:
    assert run("--quiet", "--", "sh", "-c", f"kill -{int(number)} $$").returncode == -number


WAITS = """
import os, signal, sys, time
def stop(number, frame):
    os.write(1, b"got %d\\n" % number)  # not with print(), which may be under way
    sys.exit(40 + number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_app(number: int) -> None:
    running = subprocess.Popen(
        [*RUN, "--", sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        assert running.stdout.read() == f"got {int(number)}\n"
        assert running.wait(60) == 40 + number


COUNTS = """
import os, signal, sys, time
own = bool(sys.argv[1:])
if own:
    os.setpgid(0, 0)  # what is typed does not reach it any more
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
print("ready", flush=True)
end = time.monotonic() + (0.7 if own else 60)
while not got and time.monotonic() < end:
    time.sleep(0.05)
time.sleep(0.3)
print("interrupted", len(got), flush=True)
"""


@pytest.mark.parametrize(("group", "times"), [([], 1), (["own"], 0)])
def test_control_c_on_a_terminal_is_left_to_the_terminal(group: list[str], times: int) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*RUN, "--quiet", "--", sys.executable, "-c", COUNTS, *group])
    shown = b""
    pressed = False
    with contextlib.suppress(OSError):  # Linux: the last program on it has ended
        while chunk := os.read(terminal, 1000):
            shown += chunk
            if b"ready" in shown and not pressed:
                pressed = True
                os.write(terminal, b"\x03")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert f"interrupted {times}".encode() in shown
    assert os.WEXITSTATUS(status) == 0


# -- how the guard gets in -------------------------------------------------------------------------------


def test_a_python_that_makes_no_calls_loads_nothing_for_it() -> None:
    code = (
        "import sys; print(sorted({m.split('.')[0] for m in sys.modules} & {'openai', 'sqlite3', 'asyncio'}))"
    )
    done = run("--", sys.executable, "-c", code)
    assert done.stdout == "[]\n"
    assert "0 tokens: no SDK that tokencap guards was imported" in done.stderr
    assert not Path("tokencap.db").exists()


def test_the_path_of_the_app_is_as_it_was() -> None:
    code = "import sys; print(sys.path)"
    bare = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert run("--", sys.executable, "-c", code).stdout == bare


def test_the_app_finds_all_as_ever(seen: Seen) -> None:
    assert seen.run.stdout.splitlines()[:-1] == [
        f"{seen.customized} {seen.customized}",
        "SourceFileLoader SourceFileLoader",
    ]


def test_the_app_needs_no_tokencap_of_its_own(loopback: LoopbackProvider, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "bare"], check=True)
    (site,) = Path("bare").glob("lib/*/site-packages")
    (site / "sdk.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(tmp_path / "bare" / "bin" / "python")
    absent = subprocess.run([python, "-c", "import tokencap"], capture_output=True, cwd="/")
    assert absent.returncode == 1
    done = run("--limit", "250", "--", python, app("app.py", "call(9)"))
    assert "BudgetExceededError" in done.stderr
    assert loopback.tokens == 330


def test_what_cannot_be_guarded_is_not_run() -> None:
    site = Path(tokencap.__file__).parent / "cli" / "_site"
    environ = {**os.environ, "PYTHONPATH": str(site), "_TOKENCAP_RUN": "{}"}
    done = subprocess.run(
        [sys.executable, "-c", "print('unguarded')"], capture_output=True, text=True, env=environ
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be guarded, so it is not run" in done.stderr
    for option in ("-I", "-E", "-S", "-uI"):
        done = run("--", sys.executable, option, "app.py")
        assert done.returncode == 2
        assert "cannot be guarded" in done.stderr
    assert run("--", sys.executable, "-uWignore::ImportWarning", "-c", "pass").returncode == 0


def test_every_sdk_that_can_be_patched_is_guarded() -> None:
    sdks = {family.package: family.provider.value for family in families()}
    assert {**sdks, "litellm": "litellm"} == PACKAGES


def test_an_app_that_uses_tokencap_itself_gets_the_guard_of_the_run(loopback: LoopbackProvider) -> None:
    code = """
        import tokencap
        guard = tokencap.init(tokencap.Policy.blocking(10), quiet=True)
        import openai
        tokencap.patch(limit=10, providers=["openai"])
        client = tokencap.wrap(openai.OpenAI())
        for n in range(5):
            client.chat.completions.create(
                model="gpt-5", messages=[{"role": "user", "content": "[[input=100]][[output=10]]"}]
            )
            if n == 1:
                tokencap.teardown()
    """
    Path("app.py").write_text(textwrap.dedent(code))
    done = run("--limit", "250", "app.py")
    assert "tokencap.init(): the app runs under `tokencap run`" in done.stderr
    assert "BudgetExceededError: budget exceeded" in done.stderr
    assert (loopback.tokens, spent()) == (330, (4, 330))


def test_a_run_within_a_run_is_a_mistake() -> None:
    done = run("--quiet", "--", *RUN, "--limit", "5", "--", "touch", "started")
    assert done.returncode == 2
    assert "inside of a `tokencap run` already" in done.stderr
    assert not Path("started").exists()


def test_what_passes_unseen_is_told_at_the_end(seen: Seen) -> None:
    assert seen.run.stderr.splitlines()[2:] == ["[tokencap] not counted: 2 requests to openai POST /batches"]


def test_a_command_that_no_guard_got_into_is_told_so() -> None:
    assert "nothing was guarded" in run("--", "true").stderr
    assert "nothing was guarded" in run("--", "sh", "-c", f"{sys.executable} -I -c pass").stderr
    assert run("--quiet", "--", "true").stderr == ""


# -- policies, identifiers, tags -------------------------------------------------------------------------


POLICY = """
[policy.dimensions.session]
limit = 5000

[policy.dimensions.tenant]
limit = 200
thresholds = [{at_pct = 1.0, actions = ["BLOCK"]}]
required = true
"""


def test_a_policy_comes_from_a_file(loopback: LoopbackProvider) -> None:
    Path("budgets.toml").write_text(POLICY)
    app("app.py", "call(9)")
    done = run("--policy", "budgets.toml", "--id", "tenant=acme", "--json", "app.py")
    assert "budget exceeded (tenant=acme: 220 of 200 tokens used)" in done.stderr
    summary = json.loads(done.stderr.splitlines()[-1])
    assert {one["dimension"]: (one["used"], one["limit"]) for one in summary["budgets"]} == {
        "session": (220, 5_000),
        "tenant": (220, 200),
    }
    assert loopback.tokens == 220


def test_without_options_it_is_as_configured_wherever_the_app_works(loopback: LoopbackProvider) -> None:
    Path("tokencap.toml").write_text('limit = 100\nbackend = "sqlite:here.db"\n')
    app("app.py", "call(9)")
    Path("elsewhere").mkdir()
    done = run("--", "sh", "-c", f"cd elsewhere && {sys.executable} ../app.py")
    assert "BudgetExceededError" in done.stderr
    assert loopback.tokens == 110
    assert spent("here.db") == (2, 110)
    status = subprocess.run([sys.executable, "-m", "tokencap", "status"], capture_output=True, text=True)
    assert "here.db" in status.stdout


def test_many_runs_share_a_budget_and_are_told_apart_by_tags(loopback: LoopbackProvider) -> None:
    app("app.py", "call()")
    same = ["--limit", "100", "--id", "session=nightly"]
    statuses = [
        run(*same, *(f"--tag={tag}" for tag in tags), "app.py").returncode
        for tags in (["agent=planner", "env=test"], ["agent=writer"])
    ]
    assert statuses == [0, 1]
    assert loopback.tokens == 110
    assert spent(agent="planner", env="test") == (1, 110)
    assert spent(agent="writer") == (1, 0)
    with opened("tokencap.db") as store:
        assert sorted(row.tokens for row in Ledger(store).usage("run")) == [0, 110]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--policy", "none.toml"], "--policy none.toml cannot be read"),
        (["--policy", "bad.toml"], "bad.toml:1: this is not TOML"),
        (["--policy", "empty.toml"], "empty.toml: there is no policy in it"),
        (["--limit", "5", "--id", "tenant=a"], "--id session=IDENTIFIER"),
        (["--backend", "mongodb://user:hunter2@host/"], "'mongodb'"),
    ],
)
def test_a_mistake_is_told_before_the_app_starts(argv: list[str], said: str) -> None:
    Path("bad.toml").write_text("[[[")
    Path("empty.toml").write_text("quiet = true")
    done = run(*argv, "--", "touch", "started")
    assert done.returncode == 1
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert not Path("started").exists()


def test_a_mistake_in_the_policy_stops_the_app_at_its_sdk() -> None:
    Path("budgets.toml").write_text(POLICY)
    Path("app.py").write_text("print('begun'); import cohere; print('unguarded')")
    done = run("--policy", "budgets.toml", "--id", "tennant=acme", "app.py")
    assert (done.returncode, done.stdout) == (1, "begun\n")
    assert "identifiers names 'tennant', which the policy does not" in done.stderr
