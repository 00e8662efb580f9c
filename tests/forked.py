"""What needs a process of its own, but not one that has to import everything first."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from typing import Any, Callable

import pytest

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")


def fork(step: Callable[[], Any], seconds: int = 300) -> int:
    """Perform `step` in a child, which ends by itself after so many seconds; return its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(seconds)
            step()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def join(*children: int) -> None:
    """Wait for children that are to end well."""
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children), "see what they printed"


def in_a_fork(step: Callable[[], Any], seconds: int = 300) -> Any:
    """Perform `step` in a fork of this process; return what it returns, as it comes out of JSON."""
    heard, said = os.pipe()

    def tell() -> None:
        # As in a new interpreter: what is an error in a test is none in a program.
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        with os.fdopen(said, "w") as pipe:
            json.dump(step(), pipe)

    child = fork(tell, seconds)
    os.close(said)
    with os.fdopen(heard) as pipe:
        told = pipe.read()
    join(child)
    return json.loads(told)
