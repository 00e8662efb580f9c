"""What a command writes to may be closed, or full, and what it reads may be somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from command import filled

posix = pytest.mark.skipif(os.name != "posix", reason="shells and users")


def run(folder: Path, shell: str) -> tuple[int, str, str]:
    """Run a line of shell in which `tokencap` is the command, on the store of a folder."""
    line = f'tokencap() {{ "{sys.executable}" -W error -m tokencap "$@"; }}; {shell}'
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@posix
@pytest.mark.parametrize("command", ["status", "usage", "report -o -", "doctor", "completion bash"])
def test_without_an_output_the_exit_status_counts(tmp_path: Path, command: str) -> None:
    filled(str(tmp_path / "tokencap.db"))
    assert run(tmp_path, f"tokencap {command} >&-") == (0, "", "")
    assert run(tmp_path, "tokencap status --check >&-") == (3, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
@pytest.mark.parametrize("command", ["status", "usage --csv", "report -o -"])
def test_a_full_disk_is_said(tmp_path: Path, command: str) -> None:
    filled(str(tmp_path / "tokencap.db"))
    said = "tokencap: [Errno 28] No space left on device\n"
    assert run(tmp_path, f"tokencap {command} >/dev/full") == (1, "", said)


@posix
def test_a_store_that_this_user_may_not_write_is_said_to_be_one() -> None:
    code = """
        import os, sys
        from tokencap import Guard, Policy
        from tokencap.backends.sqlite import SQLiteBackend
        from tokencap.cli.main import main
        os.chdir(sys.argv[1])
        with Guard(Policy.tracking()) as guard:
            guard.get_status()
        main(["status", "--json"])
        os.chmod("tokencap.db", 0o444)
        os.chmod(".", 0o555)
        if os.geteuid() == 0:  # root may write everything
            os.setuid(65534)
        main(["status"])
        try:
            SQLiteBackend("another.db").get_states([])
        except Exception as error:
            print(error, file=sys.stderr)
    """
    # Not tmp_path: its parents are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), folder], capture_output=True, text=True, timeout=60
        )
        os.chmod(folder, 0o700)
    store, another = done.stderr.splitlines()
    assert store.startswith("tokencap: sqlite:tokencap.db is read-only; ")
    assert another.startswith("sqlite:another.db cannot be made: this user may not write in its folder (")
