"""The first `sitecustomize` on the path of every Python that `tokencap run` starts: guards it, and makes way.

The package is loaded from where this file is, so the environment of the app need not have it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` is not loaded in every Python that starts
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_VARIABLE = "_TOKENCAP_RUN"


def _guard(settings: str) -> None:
    from importlib.util import spec_from_file_location

    if "tokencap" not in sys.modules:
        root = os.path.dirname(os.path.dirname(_HERE))
        path = os.path.join(root, "__init__.py")
        _load("tokencap", spec_from_file_location("tokencap", path, submodule_search_locations=[root]))
    from tokencap.cli.guarding import guard_this_process

    guard_this_process(settings)


def _make_way() -> None:
    """Run the `sitecustomize` that this one hides, if there is one, in its place."""
    from importlib.machinery import PathFinder

    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None:
        _load("sitecustomize", spec)


def _load(name: str, spec: Any) -> None:
    from importlib.util import module_from_spec

    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    if _VARIABLE in os.environ:
        try:
            _guard(os.environ[_VARIABLE])
        except Exception as error:
            # Python would say that sitecustomize failed, and go on without it: unguarded.
            sys.stderr.write(
                f"[tokencap] run: {sys.executable} cannot be guarded, so it is not run: {error!r}\n"
            )
            sys.stderr.flush()
            os._exit(1)
    _make_way()
