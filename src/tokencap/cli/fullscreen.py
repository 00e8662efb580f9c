"""The whole terminal for a while: drawn without flicker, and given back as it was, whatever happens."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import TokencapError

if TYPE_CHECKING:
    from typing_extensions import Self

    from .console import Console

__all__ = ["NoTerminalError", "Screen"]

# The other screen, without a cursor and without lines that wrap; and back.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
# Drawn at once by terminals that know it, and passed over by the others.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_OTHERS = ("SIGWINCH", "SIGTSTP")


class NoTerminalError(TokencapError):
    """There is no terminal to draw on; the message says what to do."""


class Screen:
    """The terminal of standard input and output. Use it in a `with` block, in the main thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        if not (sys.stdin.isatty() and console.stream.isatty() and os.environ.get("TERM") != "dumb"):
            raise NoTerminalError("there is no terminal to draw on")
        try:
            import termios
            import tty
        except ImportError:  # Windows
            raise NoTerminalError("this needs the terminal of Linux, macOS or WSL") from None
        self._termios: Any = termios
        self._tty: Any = tty
        self._input, self._output = sys.stdin.fileno(), console.stream.fileno()
        self._mode: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._woken = self._waker = self._waker_before = -1

    def __enter__(self) -> Self:
        self._mode = self._termios.tcgetattr(self._input)
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._waker_before = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for name in (*_ENDING, *_OTHERS):
            number = getattr(signal, name)
            # What it means is decided in `wait`, and never in the middle of a drawing.
            self._handlers[number] = signal.signal(number, _note)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._give_back()
        finally:
            signal.set_wakeup_fd(self._waker_before)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(self._waker)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        try:
            columns, lines = os.get_terminal_size(self._output)
        except OSError:
            columns, lines = 0, 0
        return columns or 80, lines or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the others."""
        text = "\r\n".join([f"{line}\x1b[K" for line in lines[: self.size[1]]])
        self._console.write(f"{_BEGIN}\x1b[H{text}\x1b[J{_END}")

    def wait(self, seconds: float) -> int | None:
        """Wait for a time, a change of size or an end.

        Returns None, or the exit status: 0 for the key q, as a shell tells it for a signal.
        """
        ready, _, _ = select.select([self._input, self._woken], [], [], seconds)
        if self._woken in ready:
            for number in os.read(self._woken, 1024):
                name = signal.Signals(number).name
                if name == "SIGTSTP":
                    self._stop()
                elif name in _ENDING:
                    return 128 + number
        if self._input in ready:
            typed = os.read(self._input, 1024)
            if not typed or b"q" in typed.lower():
                return 0
        return None

    def _take(self) -> None:
        self._tty.setcbreak(self._input, self._termios.TCSANOW)
        self._console.write(_ENTER)

    def _give_back(self) -> None:
        # A terminal that is gone cannot be told; but a mode that could be set back is.
        with contextlib.suppress(OSError, ValueError):
            self._console.write(_LEAVE)
        with contextlib.suppress(self._termios.error):
            self._termios.tcsetattr(self._input, self._termios.TCSADRAIN, self._mode)

    def _stop(self) -> None:
        """Let the shell have the terminal until it continues this process."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _note)
        self._take()


def _note(number: int, frame: Any) -> None:
    """Do nothing: the number is written into the pipe that `wait` reads."""
