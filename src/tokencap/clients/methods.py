"""Which methods an installed SDK has that post something, and where to. Read from its source; nothing is run.

The SDKs of one generator spell a method in one way, from their oldest supported version to the newest:
`self._post("/path", ...)` in a class of `resources/`, say. There are four such ways, and an SDK may use two.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

__all__ = ["Methods", "methods_of", "sdk_version"]


class Methods(NamedTuple):
    """The methods of one SDK, by what they do. Names are as from a client: `chat.completions.create`."""

    posts: dict[str, tuple[str, ...]]
    """By path, with `{}` for what varies in it."""
    connects: tuple[str, ...]
    """Those that open a websocket."""
    unread: tuple[str, ...]
    """Those that post to somewhere this module could not make out."""


class _Spelling(NamedTuple):
    """How one generator spells it."""

    modules: tuple[str, ...]
    """Where its methods are, below the package."""
    begins: re.Pattern[str]
    """The line that a method begins with, and its name."""
    posts: re.Pattern[str]
    """What is in a method that posts."""
    path: re.Pattern[str]
    """Where to: the group `path`."""
    connects: re.Pattern[str] | None = None
    """What the head of a method that opens a websocket looks like, from its name on."""
    by_class: bool = False
    """True when classes say where they are on a client; else their modules do."""


_DEF = re.compile(r"\n(?:    )?(?:async )?def (\w+)\(")
_CONNECT = re.compile(r"^connect\(")

_SPELLINGS = (
    # Stainless: the anthropic and openai SDKs. Some helpers in `lib/` post by themselves.
    _Spelling(
        ("resources/**/*.py", "lib/**/*.py"),
        _DEF,
        re.compile(r"\w\._post\(|method=\"post\""),
        re.compile(
            r"\w\._(?:post|get_api_list)\((?:\s*#[^\n]*)?\s*(?:path_template\(\s*)?f?([\"'])(?P<path>/[^\"']*)\1"
        ),
        re.compile(r"(?s)^(?!off\().*\) -> (?:Async)?\w+ConnectionManager:"),
    ),
    # Speakeasy: the mistralai SDK, and a part of google-genai. The websockets are written by hand.
    _Spelling(
        (
            "client/*.py",
            "azure/client/*.py",
            "gcp/client/*.py",
            "extra/realtime/*.py",
            "_gaos/*.py",
        ),
        re.compile(r"\n(?: {4}| {8})(?:async )?def (\w+)\("),
        re.compile(r"\bmethod=\"POST\""),
        re.compile(r"\bmethod=\"POST\",\s*path=\"(?P<path>[^\"]*)\""),
        _CONNECT,
        by_class=True,
    ),
    # The rest of google-genai.
    _Spelling(
        ("*.py",),
        re.compile(r"\n  (?:async )?def (\w+)\("),
        re.compile(r"\._api_client\.(?:async_)?request(?:_streamed)?\(\s*'post'"),
        re.compile(r"\b(?:path|endpoint_url) = '(?P<path>[^']*)'"),
        _CONNECT,
        by_class=True,
    ),
    # Fern: the cohere SDK.
    _Spelling(
        ("raw_*client.py", "**/raw_client.py"),
        _DEF,
        re.compile(r"\bmethod=\"POST\""),
        re.compile(r"\.httpx_client\.(?:request|stream)\(\s*f?\"(?P<path>[^\"]*)\""),
    ),
)

_PARAMETER = re.compile(r"\{+[^{}]*(?:\([^)]*\))?\}+")
_VERSION = re.compile(r"\{+api_version\}+/|(?<=upload/)v\d\w*/")


def sdk_version(package: str) -> str | None:
    """Return the version of an SDK; None when it is not installed."""
    # `google.genai` is distributed as `google-genai`.
    for name in (package, package.replace(".", "-")):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


def methods_of(package: str) -> Methods:
    """Return the methods of an SDK; none when it is not installed or without sources."""
    posts: dict[str, set[str]] = {}
    connects: set[str] = set()
    unread: set[str] = set()
    for spelling, method, text in _methods(package):
        head = text.split('\n        """', 1)[0]
        if spelling.posts.search(text):
            found = [match["path"] for match in spelling.path.finditer(text)]
            if not found:
                unread.add(method)
            for path in found:
                posts.setdefault(_plain(path), set()).add(method)
        if spelling.connects is not None and spelling.connects.search(head):
            connects.add(method)
    return Methods(
        {path: tuple(sorted(posts[path])) for path in sorted(posts)},
        tuple(sorted(connects)),
        tuple(sorted(unread)),
    )


def _plain(path: str) -> str:
    path = _PARAMETER.sub("{}", _VERSION.sub("", path))
    return "/" + re.split(r"[?#]", path, maxsplit=1)[0].strip("/")


def _methods(package: str) -> Iterator[tuple[_Spelling, str, str]]:
    """Yield the spelling, the dotted name as from a client, and the source of each method."""
    sources = {spelling: dict(_modules(package, spelling)) for spelling in _SPELLINGS}
    homes = _homes(
        text for spelling, known in sources.items() if spelling.by_class for text in known.values()
    )
    for spelling, known in sources.items():
        for path, source in known.items():
            for home, text in _classes(source, homes, path) if spelling.by_class else [(_home(path), source)]:
                parts = spelling.begins.split(text)
                methods = list(zip(parts[1::2], parts[2::2]))
                for name, body in methods:
                    for public in _callers(name, methods) or {name.lstrip("_")}:
                        known_as = f"{home}.{public.removesuffix('_async')}".lstrip(".")
                        yield spelling, known_as, f"{name}({body}"


def _modules(package: str, spelling: _Spelling) -> Iterator[tuple[Path, str]]:
    try:
        spec = importlib.util.find_spec(package)
    except ImportError:  # nor the package that it is in
        return
    for place in (spec and spec.submodule_search_locations) or ():
        root = Path(place)
        for pattern in spelling.modules:
            for path in sorted(root.glob(pattern)):
                yield path.relative_to(root), path.read_text(encoding="utf-8")


def _callers(name: str, methods: Sequence[tuple[str, str]], seen: frozenset[str] = frozenset()) -> set[str]:
    """Return the public methods that end in `name`: it, or those that call it if it is private."""
    if not name.startswith("_"):
        return {name}
    found: set[str] = set()
    for caller, body in methods:
        if f"self.{name}(" in body and caller not in seen:
            found |= _callers(caller, methods, seen | {name, caller})
    return found


def _home(path: Path) -> str:
    """Return the place on a client of what is in a module, by where that is."""
    folder, *parts = path.with_suffix("").parts
    if path.name.startswith("raw_"):
        return ".".join(path.parent.parts)
    # `resources/chat/completions/completions.py` is `chat.completions`.
    if len(parts) > 1 and parts[-1] == parts[-2]:
        parts.pop()
    return ".".join(parts if folder == "resources" else (folder, *parts))


_CLASS = re.compile(r"\nclass (\w+)")
_PART = re.compile(r"\n +(?:def )?([a-z]\w*)(?:\(self\) ->|:) [\"']?(\w+)[\"']?:?(?=\n)")
_FLAVOUR = re.compile(r"^(?:Async)?(?:GeminiNextGen)?")


def _classes(source: str, homes: Mapping[str, str], path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place on a client of each class of a module, and its source."""
    names = _CLASS.split(source)
    for name, text in zip(names[1::2], names[2::2]):
        yield homes.get(_FLAVOUR.sub("", name), path.stem), text


def _homes(sources: Iterator[str]) -> dict[str, str]:
    """Return the place of each class on a client: the classes say of what other classes their parts are."""
    parts: dict[str, dict[str, str]] = {}
    for source in sources:
        names = _CLASS.split(source)
        for name, text in zip(names[1::2], names[2::2]):
            own = parts.setdefault(_FLAVOUR.sub("", name), {})
            own.update({_FLAVOUR.sub("", kind): part for part, kind in _PART.findall(text)})
    parts = {
        name: {kind: part for kind, part in own.items() if kind in parts and kind != name}
        for name, own in parts.items()
    }
    inner = {kind for own in parts.values() for kind in own}
    homes = {name: "" for name, own in parts.items() if own and name not in inner}
    waiting = deque(homes)
    while waiting:
        name = waiting.popleft()
        for kind, part in parts[name].items():
            if kind not in homes:
                homes[kind] = f"{homes[name]}.{part}".lstrip(".")
                waiting.append(kind)
    return homes
