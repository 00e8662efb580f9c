"""`tokencap completion`: what a real shell makes of a line and a Tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import filled, policy, spend
from terminal import Terminal

from tokencap import Guard
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.cli.completion import candidates
from tokencap.cli.main import main, parser

BIN = Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store and a file, in which the shell of a person with the command runs."""
    filled(str(tmp_path / "tokencap.db"))
    (tmp_path / "other.db").touch()
    command = tmp_path / "bin" / "tokencap"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom tokencap.cli.main import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


# Typed, then a Tab: what the line is then.
LINES = [
    ("tokencap stat", "tokencap status"),
    ("tokencap status tenant=a", "tokencap status tenant=acme"),
    ("tokencap limit tenant glo", "tokencap limit tenant globex"),
    ("tokencap run --id session=", "tokencap run --id session=s"),
    ("tokencap status --backend oth", "tokencap status --backend other.db"),
    ("tokencap run -- cat oth", "tokencap run -- cat other.db"),
]


def type_in(shell: Terminal) -> None:
    """Have a shell complete each line, and take it back."""
    try:
        shell.until(lambda: shell.lines[shell.screen.cursor.y].startswith("$"))
        for typed, line in LINES:
            shell.type(f"{typed}\t#".encode())
            shell.until(lambda: shell.lines[shell.screen.cursor.y].endswith("#"))
            assert shell.lines[shell.screen.cursor.y][2:].rstrip("# ") == line
            shell.type(b"\x15")
            shell.until(lambda: shell.lines[shell.screen.cursor.y] == "$")
    finally:
        shell.close()


def test_bash_completes_what_is_typed(home: Path) -> None:
    (home / "rc").write_text("PS1='$ '; bind 'set bell-style none'; source <(tokencap completion bash)\n")
    type_in(Terminal([], 100, 40, ["bash", "--noprofile", "--rcfile", str(home / "rc"), "-i"]))


@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish here")
def test_fish_completes_what_is_typed(home: Path) -> None:
    script = "tokencap completion fish | source\n" + "".join(
        [f"echo (complete -C '{typed}' | string split -f1 \\t)\n" for typed, _ in LINES]
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, timeout=120, cwd=home
    )
    for (typed, line), found in zip(LINES, done.stdout.splitlines()):
        wanted = line.split()[-1] if line != typed else ""
        assert wanted in found.split() or wanted == found, (typed, found, done.stderr)


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh here")
def test_zsh_completes_what_is_typed(home: Path) -> None:
    (home / ".zshrc").write_text(
        "PS1='$ '; autoload -U compinit; compinit -u; source <(tokencap completion zsh); unsetopt beep\n"
    )
    type_in(Terminal([], 100, 40, ["zsh", "-i"]))


def words(*given: str) -> set[str]:
    (choices,) = [action.choices for action in parser()._actions if isinstance(action.choices, dict)]
    return {word for word, _ in candidates(choices, given)}


def test_what_may_follow_depends_on_what_is_there(home: Path) -> None:
    assert {"status", "watch", "limit", "changes"} <= words("")
    assert words("limit", "") == {"tenant", "session"}
    assert words("limit", "tenant", "") == {"acme", "globex"}
    assert words("limit", "--yes", "tenant", "") == {"acme", "globex"}
    assert words("limit", "tenant", "acme", "") == {"default"}
    assert words("status", "") == {"tenant", "session", "tenant=acme", "tenant=globex", "session=s"}
    assert words("status", "--window", "") == set()
    assert words("status", "--backend", "none.db", "") == set()
    assert words("status", "--backend", "tokencap.db", "tenant=a") == {"tenant=acme"}
    assert words("nothing", "") == set()
    assert words("completion", "") == {"bash", "zsh", "fish"}
    assert "--json" in words("reset", "--")
    assert words("run", "python", "--") == set()


def test_what_a_hostile_tenant_is_called_does_not_reach_the_shell(home: Path) -> None:
    backend = SQLiteBackend("tokencap.db")
    with Guard(policy(tenant=1_000), {"tenant": "t"}, backend) as guard:
        for name in ("$(touch owned)", "a;b", "two words", "`id`", "a'b", "fine-1.2"):
            spend(guard, 1, tenant=name)
    backend.close()
    assert words("reset", "tenant", "") == {"acme", "globex", "fine-1.2"}


def test_without_a_store_there_are_still_commands_and_no_complaint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ("tokencap\x1fstatus\x1f", "tokencap\x1fsta", "tokencap", ""):
        assert main(["completion", "bash", "--words", line, "--backend", "none.db"]) == 0
    out, err = capsys.readouterr()
    assert "status" in out
    assert err == ""
