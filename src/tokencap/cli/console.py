"""What the command writes to and asks on: a terminal or a pipe."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from .text import Look

__all__ = ["Console", "look_of"]

_DRAWN = "█░│└─…·"


def look_of(stream: TextIO, environ: Mapping[str, str], width: int) -> Look:
    """Return what can be shown on a stream. NO_COLOR and FORCE_COLOR are honoured."""
    terminal = stream.isatty() and environ.get("TERM") != "dumb"
    colour = bool(environ.get("FORCE_COLOR")) or (terminal and not environ.get("NO_COLOR"))
    try:
        _DRAWN.encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return Look(width, colour, unicode=False)
    return Look(width, colour)


class Console:
    """Standard output, with what it can show."""

    def __init__(self, stream: TextIO | None = None, environ: Mapping[str, str] | None = None) -> None:
        # There is none where the shell has closed it (`>&-`); the exit status counts all the same.
        self.stream: TextIO = stream or sys.stdout or io.StringIO()
        environ = os.environ if environ is None else environ
        # One column less: some terminals wrap a line that is exactly full.
        self.look = look_of(self.stream, environ, max(40, shutil.get_terminal_size((100, 24)).columns - 1))

    def lines(self, lines: Iterable[str]) -> None:
        """Write lines; a letter that the stream does not have is spelled out."""
        self.write("".join([f"{line}\n" for line in lines]))

    def json(self, value: Any) -> None:
        """Write a value as JSON."""
        self.write(json.dumps(value, indent=2) + "\n")

    def write(self, text: str) -> None:
        """Write a text."""
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()

    def confirm(self, question: str) -> bool | None:
        """Ask on the terminal; None: there is none."""
        if not sys.stdin.isatty():
            return None
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")
