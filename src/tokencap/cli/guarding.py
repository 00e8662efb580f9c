"""What `tokencap run` does inside of each Python process: `patch()`, the moment an SDK is imported.

Little is loaded before, so a child process that makes no calls starts about as fast as ever.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

from .._fork import ForkAware, survive_forks
from ..clients.arriving import Arrival

if TYPE_CHECKING:
    from types import ModuleType

    from ..guard import Guard

__all__ = ["PACKAGES", "VARIABLE", "Seen", "Settings", "guard_this_process", "seen"]

VARIABLE = "_TOKENCAP_RUN"
PACKAGES = {
    "anthropic": "anthropic",
    "openai": "openai",
    "google.genai": "gemini",
    "mistralai": "mistral",
    "cohere": "cohere",
    "litellm": "litellm",
}
"""What is guarded, by the name it is imported by; the value is what `patch(providers=...)` calls it."""


class Settings(NamedTuple):
    """What the processes of one run have in common."""

    run: str
    """The id of the run: the identifier of every dimension for which none was said, and the tag `run`."""
    backend: str
    limit: int | None = None
    """None: the policy is as configured."""
    strict: bool = False
    identifiers: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    noted: str = ""
    """A folder in which every guarded process leaves a file."""

    def text(self) -> str:
        """Return the settings as the environment carries them."""
        return json.dumps(self._asdict())


def guard_this_process(text: str) -> None:
    """Have every SDK guarded as soon as it is imported."""
    guarding = _Guarding(Settings(**json.loads(text)))
    for package in PACKAGES:
        Arrival(package, guarding.sdk).watch()
    # Before the app can make a Guard of its own there.
    Arrival("tokencap._default", guarding.begin).watch()


class _Guarding(ForkAware):
    """One Guard for all SDKs of this process, made when the first of them, or of its functions, is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guard: Guard | None = None
        self.after_fork_in_child()
        survive_forks(self)
        self._note({})

    def after_fork_in_child(self) -> None:
        """See `_fork`: a thread of the parent may have been making the Guard."""
        self._lock = RLock()

    def sdk(self, module: ModuleType) -> None:
        """Patch an SDK that has just been imported."""
        from .._config import configuration
        from ..clients.patching import Patch

        provider = PACKAGES[module.__name__]
        wanted = configuration().providers
        if wanted is None or provider in wanted:
            self._owner()
            Patch.prepare([provider], self._owner).apply()
            self._note({"sdk": provider})

    def _owner(self) -> Guard:
        with self._lock:
            from .. import _default  # noqa: F401 - which makes it

            assert self._guard is not None
            return self._guard

    def begin(self, module: ModuleType) -> None:
        """Make the Guard, and make it the Guard of the process."""
        from .._config import configuration
        from ..backends.urls import open_url
        from ..clients.passing import listen
        from ..policy import Policy

        settings, found = self._settings, configuration()
        policy = found.policy or Policy.tracking()
        if settings.limit is not None:
            policy = Policy.blocking(settings.limit, settings.strict)
        # The same in every process of the run.
        identifiers = {name: settings.run for name, one in policy.dimensions.items() if not one.required}
        identifiers.update({k: v for k, v in (found.identifiers or {}).items() if k in policy.dimensions})
        identifiers.update(settings.identifiers)
        guard: Guard = module.impose(policy, identifiers, open_url(settings.backend))
        guard.runtime.tags = {**settings.tags, "run": settings.run}
        self._guard = guard
        listen(lambda place: self._note({"unseen": f"{place.provider} {place.name}"}))

    def _note(self, what: Mapping[str, str]) -> None:
        path = os.path.join(self._settings.noted, str(os.getpid()))
        # The folder is gone when this process has outlived the run.
        with contextlib.suppress(OSError), open(path, "a") as note:
            note.write(json.dumps(what) + "\n")


class Seen(NamedTuple):
    """What the processes of a run noted."""

    processes: int
    """How many Python processes were guarded."""
    sdks: tuple[str, ...]
    """The SDKs that any of them imported."""
    unseen: Mapping[str, int]
    """How many requests went where no budget is charged, by provider and path."""


def seen(folder: str) -> Seen:
    """Return what was noted in a folder."""
    sdks: set[str] = set()
    unseen: dict[str, int] = {}
    names = os.listdir(folder)
    for name in names:
        with open(os.path.join(folder, name)) as note:
            for line in note:
                what = json.loads(line)
                if "sdk" in what:
                    sdks.add(what["sdk"])
                if "unseen" in what:
                    unseen[what["unseen"]] = unseen.get(what["unseen"], 0) + 1
    return Seen(len(names), tuple(sorted(sdks)), unseen)
