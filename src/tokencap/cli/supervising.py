"""One child process, run to its end as if it had been started in place of this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["die_of", "supervise"]


def _signals(*names: str) -> tuple[int, ...]:
    """Return the signals of these names that this platform has."""
    return tuple(int(getattr(signal, name)) for name in names if hasattr(signal, name))


_FROM_A_KEYBOARD = _signals("SIGINT", "SIGQUIT")
_RELAYED = _signals("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def supervise(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command to its end, passing signals on; return its status, negative for a signal."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def relay(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        # What is typed on a terminal reaches the app by itself, as it is in the same group.
        elif child.returncode is None and not (number in _FROM_A_KEYBOARD and _typed()):
            with contextlib.suppress(OSError):
                os.kill(child.pid, number)

    with _handling(relay):
        child = subprocess.Popen(command, env=environ)  # noqa: S603 - to run it is what was asked for
        for number in early:
            os.kill(child.pid, number)
        return child.wait()


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {}
    for number in _RELAYED:
        # Ignored ones (by nohup) stay ignored, for the app too.
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _typed() -> bool:
    """Tell whether this process is in the foreground of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def die_of(number: int) -> int:
    """End as the app did: by the same signal, without a core file of our own."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
