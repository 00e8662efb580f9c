"""What needs a process of its own, but not one that has to import everything first."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from typing import Any, Callable


def in_a_fork(step: Callable[[], Any], seconds: int = 300) -> Any:
    """Perform `step` in a fork of this process; return what it returns, as it comes out of JSON."""
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(seconds)
            # As in a new interpreter: what is an error in a test is none in a program.
            warnings.resetwarnings()
            warnings.simplefilter("ignore")
            with os.fdopen(said, "w") as pipe:
                json.dump(step(), pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(said)
    with os.fdopen(heard) as pipe:
        told = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "see what it has printed"
    return json.loads(told)
