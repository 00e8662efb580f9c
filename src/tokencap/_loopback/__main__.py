"""`python -m tokencap._loopback --port 8000`: the provider as a process of its own."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from ._server import LoopbackProvider


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; the first lines of output are environment variables to set."""
    parser = argparse.ArgumentParser(prog="python -m tokencap._loopback", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    port = parser.parse_args().port
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with LoopbackProvider(port) as provider:
        for name, value in provider.environ.items():
            sys.stdout.write(f"{name}={value}\n")
        sys.stdout.flush()
        # In steps, as Windows delivers no signal to a thread that waits for ever.
        while not done.wait(0.5):
            pass


if __name__ == "__main__":
    main()
