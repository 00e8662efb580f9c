"""A program in a real terminal: a pseudo terminal of the system, and pyte to read what is drawn."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyte

PATIENCE = 60.0


class Terminal:
    """What a person sees and types. `attributes`: how the terminal was set before the program."""

    def __init__(self, argv: list[str], columns: int, lines: int, program: list[str] | None = None) -> None:
        self._ours, self._theirs = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(columns, lines)
        self.attributes = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *(program or ["tokencap", *argv])],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        )

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def line(self, beginning: str) -> str:
        """Return the words of the line that begins in this way; nothing where there is none."""
        return " ".join(next((line for line in self.lines if line.startswith(beginning)), "").split())

    def until(self, seen: Callable[[], Any]) -> None:
        """Read until this is on the screen."""
        give_up = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < give_up, "\n".join(self.lines)
            self._read(0.2)

    def ended(self) -> int:
        """Return the exit status, once everything that was written is read."""
        while self.process.poll() is None:
            self._read(0.1)
        while self._read(0.0):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], seconds)
        if ready:
            data = os.read(self._ours, 65_536)
            self.raw += data
            self._stream.feed(data)
        return bool(ready)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def given_back(self) -> bool:
        """Whether the terminal is as it was: the same settings, its own screen, and a cursor."""
        same = termios.tcgetattr(self._theirs) == self.attributes
        shown = self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
        own = self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h") >= 0
        return same and shown and own


# The terminal becomes the one that Ctrl-C and a change of size reach the program through.
START = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1] != "tokencap":
    os.execvp(sys.argv[1], sys.argv[1:])
from tokencap.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@contextlib.contextmanager
def running(*argv: str, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    """Run `tokencap ARGUMENTS` in a terminal."""
    terminal = Terminal(list(argv), columns, lines)
    try:
        yield terminal
    finally:
        terminal.close()
