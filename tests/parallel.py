"""The tests of a run in several processes, file by file: `--processes=4`.

They are forked from the process that has found the tests and has imported the SDKs for it: that takes seconds
wherever it is done. Without the option, or on a platform that does not fork, all is as ever.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Pipe, wait
from typing import Any

import pytest

File = Sequence[pytest.Item]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, help="run the tests in so many processes")


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    files = [list(items) for _, items in itertools.groupby(session.items, lambda item: item.path)]
    count = min(option.processes, len(files))
    if count < 2 or option.collectonly or option.usepdb or session.testsfailed or not hasattr(os, "fork"):
        return None
    session.config.pluginmanager.getplugin("terminalreporter").showfspath = False
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    sys.stdout.flush()
    queue, end = os.pipe()
    os.write(end, b"".join(number.to_bytes(2, "big") for number in range(len(files))))
    os.close(end)
    workers = [Worker(session, files, queue) for _ in range(count)]
    os.close(queue)
    try:
        while busy := {worker.connection: worker for worker in workers if not worker.ended}:
            for connection in wait(list(busy)):
                busy[connection].receive()
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    finally:
        for worker in workers:
            worker.end()
    return True


class Worker:
    """A process that takes file after file from a queue, seen from where it was forked."""

    def __init__(self, session: pytest.Session, files: Sequence[File], queue: int) -> None:
        self._session = session
        self._files = files
        self._left: list[pytest.Item] = []
        self.ended = False
        self.connection: Any
        self.connection, there = Pipe(duplex=False)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                work(session.config, files, queue, there)
            finally:
                os._exit(0)
        there.close()

    def receive(self) -> None:
        """Pass on what it tells."""
        config, hook = self._session.config, self._session.config.hook
        try:
            kind, told = self.connection.recv()
        except EOFError:
            self.ended = True
            self._session.shouldfail = f"a process died in {self._left[0].nodeid if self._left else '?'}"
            return
        if kind == "file":
            self._left = list(self._files[told])
        elif kind == "reports":
            self._left.pop(0)
            reports = [hook.pytest_report_from_serializable(config=config, data=data) for data in told]
            where = {"nodeid": reports[0].nodeid, "location": reports[0].location}
            hook.pytest_runtest_logstart(**where)
            for report in reports:
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(**where)
        elif kind == "warning":
            message = warnings.WarningMessage(*told.pop("warning_message"))
            hook.pytest_warning_recorded.call_historic(kwargs={**told, "warning_message": message})
        else:
            self.ended = True
            self._session.shouldfail = self._session.shouldfail or told

    def end(self) -> None:
        """Wait for its end; interrupt it if it is at work."""
        if not self.ended:
            os.kill(self._pid, signal.SIGINT)
        os.waitpid(self._pid, 0)
        self.connection.close()


class Told:
    """What pytest tells in a worker, for the terminal of the other process."""

    def __init__(self, config: pytest.Config, connection: Any) -> None:
        self._config = config
        self._connection = connection
        self._reports: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        self._reports.append(hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self) -> None:
        self._connection.send(("reports", self._reports))
        self._reports = []

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any
    ) -> None:
        told = warning_message
        message = (str(told.message), told.category, told.filename, told.lineno)
        warning = {"warning_message": message, "when": when, "nodeid": nodeid, "location": location}
        self._connection.send(("warning", warning))


def work(config: pytest.Config, files: Sequence[File], queue: int, connection: Any) -> None:
    """Run the tests of files, as long as there are any in the queue."""
    error = None
    try:
        config.pluginmanager.unregister(name="terminalreporter")
        config.pluginmanager.register(Told(config, connection))
        # The file that keeps what a test prints is its own, too.
        capture = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture()
        # Names are looked for in a folder of its own, in the one of the run.
        folders = config._tmp_path_factory  # type: ignore[attr-defined]
        folders._basetemp = folders.mktemp("process")
        while taken := os.read(queue, 2):
            number = int.from_bytes(taken, "big")
            connection.send(("file", number))
            for item, following in itertools.zip_longest(files[number], files[number][1:]):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    except KeyboardInterrupt:
        pass
    except BaseException:
        error = traceback.format_exc()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    connection.send(("end", error))
