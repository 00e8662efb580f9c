"""`tokencap run`: an app under `patch()` with no line changed, its child processes included.

The app is a child process. Its standard streams, exit status and signals are its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, TokencapError
from .guarding import VARIABLE, Settings, seen
from .options import EXIT_USAGE, add_command, add_pairs, tokens
from .store import CONFIG, absolute, configured, opened
from .summary import Summary
from .supervising import die_of, supervise

if TYPE_CHECKING:
    from .console import Console
    from .options import Commands

__all__ = ["add", "split"]

_SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_site")
_VALUED = ("--limit", "--policy", "--backend", "--id", "--tag")
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_UNGUARDABLE = {"I": "ignores PYTHONPATH", "E": "ignores PYTHONPATH", "S": "leaves out the site module"}


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "run",
        perform,
        "Run an app under a budget: every call of its SDK clients is guarded, in child processes too, "
        "with no line of it changed.",
        [
            ("tokencap run --limit 50000 -- python app.py", "stop it after 50,000 tokens"),
            ("tokencap run --limit 50k -m my_agent --fast", "a module"),
            ("tokencap run --policy tokencap.toml -- crewai run", "any console script"),
            ("tokencap run --limit 2M --id session=nightly -- ./all.sh", "one budget for many runs"),
            ("tokencap run --tag agent=planner -- python plan.py", "count only, to tell apart later"),
        ],
        notes=(
            "Without --limit and --policy it is as tokencap.toml and the TOKENCAP_* variables say, else\n"
            "tokens are counted and nothing is refused. What was spent is told at the end, on stderr;\n"
            "with --json as one line.\n"
            "Exit status and signals are the app's own; 127: no such command, 126: it cannot be run.\n"
            "Not guarded: Python started with -I, -E or -S, or without the PYTHONPATH of its parent; and\n"
            "clients for which the app makes a tokencap.Guard of its own."
        ),
    )
    parser.usage = "tokencap run [options] [--] COMMAND [ARGUMENT ...]"
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--limit", type=tokens, metavar="TOKENS", help="the budget, like 50000, 50k or 2M")
    what.add_argument("--policy", metavar="FILE", help="a tokencap.toml, in place of the one that is here")
    parser.add_argument("--strict", action="store_true", help="with --limit: never over, by no token")
    about = "whose budget it counts on (default: one made up for this run)"
    add_pairs(parser, "--id", "DIMENSION=IDENTIFIER", about)
    add_pairs(parser, "--tag", "NAME=VALUE", "for `tokencap usage --by NAME`")
    parser.add_argument("--quiet", action="store_true", help="say nothing at the end")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of `run`, and the command after them."""
    at = 0
    while at < len(argv) and argv[at].startswith("-") and argv[at] not in ("--", "-m", "-"):
        at += 2 if argv[at] in _VALUED else 1
    rest = list(argv[at:])
    return list(argv[:at]), rest[1:] if rest[:1] == ["--"] else rest


def command_of(rest: Sequence[str]) -> list[str]:
    """Return what is to be run: modules and scripts that are no programs by this Python."""
    if not rest or list(rest) == ["-m"]:
        raise _UsageError("there is no command to run: tokencap run --limit 50000 -- python app.py")
    first = rest[0]
    script = first.endswith((".py", ".pyw")) and os.path.isfile(first) and not shutil.which(first)
    if first == "-m" or script:
        return [sys.executable, *rest]
    if os.path.basename(first).startswith("python"):
        _check_options(rest[1:])
    return list(rest)


def _check_options(options: Sequence[str]) -> None:
    """Raise for an option with which Python does not let the guard in."""
    for option in options:
        if not option.startswith("-") or option.startswith("--") or option in ("-", "-c", "-m"):
            return
        flags = re.split("[cmWX]", option[1:])[0]  # what follows these is their value
        for letter, why in _UNGUARDABLE.items():
            if letter in flags:
                raise _UsageError(f"python {option} cannot be guarded: -{letter} {why}")


class _UsageError(TokencapError):
    """The command line is wrong."""


def perform(args: argparse.Namespace, console: Console) -> int:  # noqa: ARG001
    """Run the command."""
    try:
        command = command_of(args.rest)
        if args.strict and args.limit is None:
            raise _UsageError("--strict goes with --limit; in a policy a dimension says it")
        if VARIABLE in os.environ:
            raise _UsageError("it is inside of a `tokencap run` already: leave this one out")
    except _UsageError as error:
        sys.stderr.write(f"tokencap run: {error}\n")
        return EXIT_USAGE
    settings, file = _settings(args)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tokencap-run-") as noted:
        environ = environment(os.environ, settings._replace(noted=noted), file)
        try:
            status = supervise(command, environ)
        except OSError as error:
            sys.stderr.write(f"tokencap run: {command[0]}: {error.strerror}\n")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
        if not args.quiet:
            with contextlib.suppress(OSError, ValueError):
                _tell(_summary(settings, noted, time.monotonic() - began), args.json)
    return status if status >= 0 else die_of(-status)


def _settings(args: argparse.Namespace) -> tuple[Settings, Path | None]:
    """Return the settings of the run and the file that configures it.

    What can be checked without the app's own modules is, so that the app need not fail by it.
    """
    identifiers = dict(args.id)
    if args.limit is not None and set(identifiers) - {"session"}:
        raise ConfigurationError("--limit is about the dimension 'session': --id session=IDENTIFIER")
    found = configured(os.environ)
    if args.policy is not None:
        found = _policy_file(args.policy)
    run = uuid.uuid4().hex[:12]
    settings = Settings(run, absolute(args.backend), args.limit, args.strict, identifiers, dict(args.tag))
    return settings, None if found is None else found[0].absolute()


def _policy_file(name: str) -> tuple[Path, Mapping[str, Any]]:
    try:
        Path(name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--policy {name} cannot be read: {error.strerror}") from None
    found = configured({CONFIG: name})
    if found is None or not found[1].keys() & {"policy", "limit"}:
        raise ConfigurationError(f"--policy {name}: there is no policy in it, neither [policy] nor limit =")
    return found


def environment(environ: Mapping[str, str], settings: Settings, file: Path | None) -> dict[str, str]:
    """Return the environment of the app. `file` is what configures it, whatever directory it works in."""
    inherited = environ.get("PYTHONPATH")
    path = [_SITE, *(inherited.split(os.pathsep) if inherited else [])]
    changed = {"PYTHONPATH": os.pathsep.join(path), VARIABLE: settings.text()}
    if file is not None:
        changed[CONFIG] = str(file)
    return {**environ, **changed}


def _summary(settings: Settings, noted: str, seconds: float) -> Summary:
    summary = Summary(settings.run, seen(noted))
    if not summary.seen.sdks:
        return summary
    try:
        with opened(settings.backend) as store:
            # A minute more: the clock of the store need not be ours.
            return summary.with_books(store, timedelta(seconds=seconds + 60), settings.identifiers)
    except TokencapError as error:
        return summary.failed(str(error))


def _tell(summary: Summary, as_json: bool) -> None:
    lines: list[Any] = [json.dumps(summary.to_dict())] if as_json else summary.lines()
    for line in lines:
        encoding = sys.stderr.encoding or "utf-8"
        sys.stderr.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
    sys.stderr.flush()
