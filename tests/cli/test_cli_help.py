"""Every command says how it is used, and what to do when it cannot do it."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from tokencap.cli.main import main, parse, parser


def _commands() -> dict[str, argparse.ArgumentParser]:
    (choices,) = [
        action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(choices)


COMMANDS = _commands()


def _examples(text: str) -> list[str]:
    """Return the command lines of the examples, without what is said about them."""
    shown = text.partition("examples:\n")[2]
    return [line.strip().split("  ")[0] for line in shown.splitlines() if line.startswith("  tokencap")]


def test_all_commands_are_there() -> None:
    assert {"status", "usage", "run", "limit", "grant", "reset", "changes"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_examples_that_are_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    examples = _examples(capsys.readouterr().out)
    assert examples
    for line in examples:
        assert line.startswith(f"tokencap {name}")
        words = shlex.split(re.sub(r" [>|] .*| < .*", "", line))
        assert parse(words[1:]).command == name, line


def test_the_command_without_a_command_shows_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^ +{name}( +\w|$)", out, re.MULTILINE), name


@pytest.mark.parametrize("argv", [["limit", "tenant", "acme", "5"], ["reset", "a", "b"], ["changes"]])
def test_without_a_store_it_is_said_what_to_do(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, "--backend", str(tmp_path / "none.db")]) == 1
    assert "there is no store at" in (err := capsys.readouterr().err)
    assert "--backend" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tokens", ["0", "-5", "12x", "1.5k", "99999999999999999999"])
def test_what_is_no_number_of_tokens_is_said(tokens: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["grant", "tenant", "acme", "--", tokens])
    assert stop.value.code == 2
    assert "is no number of tokens like 50000, 50k or 2M" in capsys.readouterr().err
