"""What `tokencap doctor` looks at in this Python: what is installed, configured and guarded."""

from __future__ import annotations

import logging
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

from .._config import configuration
from .._version import __version__
from ..clients.family import families, is_installed
from ..clients.methods import sdk_version
from ..errors import ConfigurationError
from ..providers.coverage import CoverageStatus
from ..providers.tokenizer import TABLES
from .findings import Finding, note, well, wrong

if TYPE_CHECKING:
    from .._coverage import Coverage, CoverageRow
    from ..clients.family import Family

__all__ = ["configured", "guarded", "installed", "tokenizer", "too_old"]

_OTHERS = {
    "litellm": "",
    "redis": "",
    "tiktoken": "",
    "opentelemetry-api": 'no metrics are told (pip install "tokencap[otel]")',
}
"""What is used where it is there, and what goes without it."""


def installed() -> Iterator[Finding]:
    """Look at versions."""
    area = "installed"
    yield well(area, f"tokencap {__version__} on Python {platform.python_version()} ({sys.executable})")
    least = _least_versions()
    found = {family.package: sdk_version(family.package) for family in families()}
    there = [f"{name} {version}" for name, version in found.items() if version is not None]
    if there:
        yield well(area, ", ".join(there))
    else:
        yield note(
            area,
            "no SDK that tokencap guards is installed in this Python",
            'pip install "tokencap[anthropic]" or "tokencap[openai]"; if the app has another Python, '
            "ask that one: python -m tokencap doctor",
        )
    for family in families():
        version = found[family.package]
        name = family.package.replace(".", "-")
        if version is not None and too_old(version, least.get(name, "0")):
            yield wrong(
                area,
                f"{name} {version} is older than {least[name]}, the oldest that tokencap guards",
                f'pip install --upgrade "tokencap[{family.provider}]"',
            )
    for name, without in _OTHERS.items():
        version = sdk_version(name)
        if version is not None:
            yield well(area, f"{name} {version}")
        elif without:
            yield well(area, f"{name} is not installed: {without}")


def _least_versions() -> dict[str, str]:
    """Return the oldest version of each package that the extras accept."""
    try:
        texts = metadata.requires("tokencap") or []
    except metadata.PackageNotFoundError:
        return {}
    found = [re.match(r"([\w.-]+)[^;]*>=\s*([\d.]+)", text) for text in texts]
    return {match[1]: match[2] for match in found if match is not None}


def too_old(version: str, least: str) -> bool:
    """Compare the numbers that two versions begin with."""
    here, there = ([int(part) for part in re.findall(r"\d+", text)[:3]] for text in (version, least))
    return here + [0] * (3 - len(here)) < there + [0] * (3 - len(there))


def configured() -> Iterator[Finding]:
    """Read the file and the variables as the app would."""
    area = "configuration"
    with _warnings() as said:
        try:
            found = configuration()
        except ConfigurationError as error:
            if "cannot be imported" in str(error):
                yield note(area, str(error), "see that the app can: this command may not be in its place")
            else:
                yield wrong(area, str(error), "correct it: every tokencap.patch() and wrap() fails by it")
            return
    for text in said:
        yield note(area, text, "correct its name, or unset it")
    if found.sources:
        yield well(area, f"read from {', '.join(found.sources)}")
    else:
        yield well(area, "none in this directory: neither tokencap.toml, nor pyproject.toml, nor a variable")
    policy = found.policy
    if policy is not None and not policy.enforce:
        yield note(area, "enforce is false: nothing is refused or degraded", "set it to true")


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what tokencap logs."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, handler = logging.getLogger("tokencap"), Collect(logging.WARNING)
    log.addHandler(handler)
    before, log.propagate = log.propagate, False
    try:
        yield said
    finally:
        log.propagate = before
        log.removeHandler(handler)


def guarded(coverage: Coverage) -> Iterator[Finding]:
    """Say what budgets can see of what the installed SDKs can do."""
    area = "guarded"
    here = [family for family in families() if family.package in coverage.sdks]
    for family in here:
        many = len(_rows(coverage, family, CoverageStatus.TRACKED))
        yield well(area, f"{family.package}: {many} paths are counted and stopped")
    for status, what, do in (
        (
            CoverageStatus.NOT_SEEN,
            "spent without any budget seeing it",
            "if the app uses them, guard.call() counts them. python -c 'import tokencap; "
            "print(tokencap.coverage())' says where each reports what it spent",
        ),
        (
            CoverageStatus.UNKNOWN,
            "in no table of tokencap, so never stopped, and counted only if the reply reports tokens",
            "see whether a newer tokencap knows them",
        ),
    ):
        found = []
        for family in here:
            names = {method for row in _rows(coverage, family, status) for method in row.methods}
            if names:
                found.append(f"{family.package}: {_some(sorted(names))}")
        if found:
            yield note(area, f"{what}: {'; '.join(found)}", do)


def _rows(coverage: Coverage, family: Family, status: CoverageStatus) -> list[CoverageRow]:
    return [row for row in coverage.rows if row.provider == family.provider.value and row.status is status]


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join([f"{name}()" for name in names[:most]])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def tokenizer() -> Iterator[Finding]:
    """See whether estimates are made with tiktoken. Nothing is fetched."""
    area = "tokenizer"
    spent = "what was spent is the provider's own count either way"
    if not is_installed("tiktoken"):
        yield note(
            area,
            f"tiktoken is not installed: estimates of prompts count characters ({spent})",
            'pip install "tokencap[openai]" for closer estimates near a limit',
        )
        return
    missing = [name for name in TABLES if not _is_local(name)]
    if not missing:
        yield well(area, f"tiktoken {sdk_version('tiktoken')} with its tables {', '.join(TABLES)}")
        return
    yield note(
        area,
        f"tiktoken has no {' and no '.join(missing)} on this machine: estimates of prompts count characters "
        f"until the app has fetched it, beside its calls ({spent})",
        "with a network: python -c 'import tiktoken; "
        + "; ".join([f'tiktoken.get_encoding("{name}")' for name in missing])
        + "'; without: copy the folder from elsewhere and name it in TIKTOKEN_CACHE_DIR",
    )


def _is_local(name: str) -> bool:
    """Load a table with the network shut."""
    import tiktoken
    from tiktoken import load

    def shut(blobpath: str) -> bytes:
        raise ConnectionError(blobpath)

    fetch = load.read_file
    load.read_file = shut
    try:
        tiktoken.get_encoding(name)
    except Exception:
        return False
    finally:
        load.read_file = fetch
    return True
