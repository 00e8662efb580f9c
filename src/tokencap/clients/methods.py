"""Which methods an installed SDK has that post something, and where to. Read from its source; nothing is run.

The SDKs of one generator spell a method in one way, `self._post("/path", ...)` in a class of `resources/`,
from their oldest supported version to the newest. Some helpers in `lib/` post by themselves.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

__all__ = ["Methods", "methods_of", "sdk_version"]

_DEF = re.compile(r"\n(?:    )?(?:async )?def (\w+)\(")
_POST = re.compile(
    r"\w\._(?:post|get_api_list)\((?:\s*#[^\n]*)?\s*(?:path_template\(\s*)?(f?)([\"'])(/[^\"']*)\2"
)
_POSTS = re.compile(r"\w\._post\(|method=\"post\"")
_PARAMETER = re.compile(r"\{[^}]*\}")
_CONNECTION = re.compile(r"\) -> (?:Async)?\w+ConnectionManager:")


class Methods(NamedTuple):
    """The methods of one SDK, by what they do. Names are as from a client: `chat.completions.create`."""

    posts: dict[str, tuple[str, ...]]
    """By path, with `{}` for what varies in it."""
    connects: tuple[str, ...]
    """Those that open a websocket."""
    unread: tuple[str, ...]
    """Those that post to somewhere this module could not make out."""


def sdk_version(package: str) -> str | None:
    """Return the version of an SDK; None when it is not installed."""
    # `google.genai` is distributed as `google-genai`.
    for name in (package, package.replace(".", "-")):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


def methods_of(package: str) -> Methods:
    """Return the methods of an SDK of this generator; none when it is not installed or without sources."""
    posts: dict[str, set[str]] = {}
    connects: set[str] = set()
    unread: set[str] = set()
    for home, source in _resources(package):
        names = _DEF.split(source)
        for name, text in zip(names[1::2], names[2::2]):
            method = f"{home}.{name}"
            found = [match[3] for match in _POST.finditer(text)]
            if _POSTS.search(text):
                if not found:
                    unread.add(method)
                for path in found:
                    posts.setdefault(_PARAMETER.sub("{}", path).split("?", 1)[0], set()).add(method)
            if name != "off" and _CONNECTION.search(text.split('\n        """', 1)[0]):
                connects.add(method)
    return Methods(
        {path: tuple(sorted(posts[path])) for path in sorted(posts)},
        tuple(sorted(connects)),
        tuple(sorted(unread)),
    )


def _resources(package: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted place on a client and the source of each module of resources."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    root = Path(spec.origin).parent
    for path in sorted([*root.glob("resources/**/*.py"), *root.glob("lib/**/*.py")]):
        folder, *parts = path.relative_to(root).with_suffix("").parts
        # `resources/chat/completions/completions.py` is `chat.completions`.
        if len(parts) > 1 and parts[-1] == parts[-2]:
            parts.pop()
        yield ".".join(parts if folder == "resources" else (folder, *parts)), path.read_text(encoding="utf-8")
