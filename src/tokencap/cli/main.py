"""The command line: which command, and what is said when it cannot be done."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from .._version import __version__
from ..errors import BackendError, TokencapError
from . import changes, changing, completion, doctor, report, run, status, usage, watch
from .console import Console
from .options import EXIT_ERROR, EXIT_OK, EXIT_USAGE, EXITS, Parser
from .store import CONFIG, settled

__all__ = ["main", "parse", "parser"]

_COMMANDS = (status, usage, watch, report, run, changing, changes, doctor, completion)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = Parser(
        prog="tokencap",
        description="Budgets of tokens: how they stand, where they went, and how to change them.",
        epilog=f"{EXITS}\n\nexample:\n  tokencap status\nMore: tokencap COMMAND --help",
    )
    top.add_argument("--version", action="version", version=f"tokencap {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", title="commands", dest="command")
    for module in _COMMANDS:
        module.add(commands)
    return top


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return what a command line says; `rest` is the command line that `run` is to run."""
    words = list(argv)
    rest: list[str] = []
    if words[:1] == ["run"]:
        words[1:], rest = run.split(words[1:])
    return parser().parse_args(words, argparse.Namespace(rest=rest))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. Never raises but for a wrong command line."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if args.command is None:
        parser().print_help(sys.stderr)
        return EXIT_USAGE
    try:
        file = getattr(args, "policy", None)
        if args.settles:
            args.backend = settled(args.backend, {**os.environ, CONFIG: file} if file else os.environ)
        status: int = args.perform(args, Console())
    except BrokenPipeError:
        # `tokencap ... | head`: whoever read has seen enough.
        _write_no_more()
        return EXIT_OK
    except KeyboardInterrupt:
        return 130
    except TokencapError as error:
        hint = "; `tokencap doctor` looks closer" if isinstance(error, BackendError) else ""
        sys.stderr.write(f"tokencap: {error}{hint}\n")
        return EXIT_ERROR
    except OSError as error:
        _write_no_more()
        sys.stderr.write(f"tokencap: {error}\n")
        return EXIT_ERROR
    return status


def _write_no_more() -> None:
    """Let nobody read what is not written yet: Python would complain once more at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
