"""A headless Chromium, driven by its DevTools protocol over two pipes: no package, no port, no download.

The browser is the one on the PATH. Where there is none the tests are skipped with a reason, but fail in CI.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from needs import missing

PATIENCE = 120.0
"""Seconds an answer may take on a machine that is busy with other things."""

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The browser talks on the descriptors 3 and 4.
_ON_3_AND_4 = """
import os, sys
given, taken = int(sys.argv[1]), int(sys.argv[2])
high = [os.dup2(given, 13), os.dup2(taken, 14)]
os.dup2(high[0], 3), os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # it has none as root, which is who tests in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def binary() -> str:
    """Return the path of a browser; skip the test, or fail it in CI, where there is none."""
    given = os.environ.get("CHROMIUM")
    found = given or next((path for path in map(shutil.which, _NAMES) if path), None)
    if found:
        return found
    return missing("no Chromium for the report's test: apt-get install chromium, or name one in CHROMIUM")


class Chromium:
    """One browser process. Ends only what it started itself."""

    def __init__(self, profile: Path) -> None:
        (to_read, self._to), (self._from, to_write) = os.pipe(), os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-c", _ON_3_AND_4, str(to_read), str(to_write)),
                *(binary(), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; what happens meanwhile is kept in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            got = self._receive()
            if got.get("id") == self._number:
                assert "error" not in got, f"{method}: {got['error']}"
                result: dict[str, Any] = got["result"]
                return result
            self.events.append(got)

    def wait_for(self, method: str, session: str) -> dict[str, Any]:
        """Wait until something has happened."""
        while True:
            for event in self.events:
                if event.get("method") == method and event.get("sessionId") == session:
                    return event
            self.events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._from, 1 << 20)
            assert more, f"the browser has ended with status {self._process.wait()}"
            self._buffer += more
        raw, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(raw)
        return found

    def close(self) -> None:
        """End the browser with all of its processes."""
        os.close(self._to)
        os.close(self._from)
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, kind)
            except ProcessLookupError:
                break
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()


class Tab:
    """One page of a browser, opened on a file."""

    def __init__(self, browser: Chromium, path: Path, width: int = 1280, dark: bool = False) -> None:
        self._browser = browser
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{domain}.enable")
        self.look(width, dark)
        self.url = path.absolute().as_uri()
        self._send("Page.navigate", url=self.url)
        browser.wait_for("Page.loadEventFired", self._session)

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **params)

    def look(self, width: int, dark: bool = False) -> None:
        """Set the width of the window, and whether its user likes it dark."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])

    def __call__(self, script: str) -> Any:
        """Return what an expression comes to, in types that JSON knows."""
        done = self._send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def key(self, name: str) -> None:
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def drag(self, x: float, to_x: float, y: float) -> None:
        """Press the mouse at a place, move it, and let it go."""
        for kind, place in (("mousePressed", x), ("mouseMoved", to_x), ("mouseReleased", to_x)):
            button = "none" if kind == "mouseMoved" else "left"
            self._send(
                "Input.dispatchMouseEvent", type=kind, x=place, y=y, button=button, buttons=1, clickCount=1
            )

    def requests(self) -> list[str]:
        """Return what the page has asked for so far, but for itself and what is in it."""
        urls = [str(event["params"]["request"]["url"]) for event in self._own("Network.requestWillBeSent")]
        return [url for url in urls if url != self.url and not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Return every error and every word on the console so far."""
        said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for method in said for event in self._own(method)]

    def _own(self, method: str) -> list[dict[str, Any]]:
        return [
            event
            for event in self._browser.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]

    def screenshot(self, path: Path) -> None:
        """Write what the whole page looks like."""
        shot = self._send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=self._whole()
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _whole(self) -> dict[str, Any]:
        size = self._send("Page.getLayoutMetrics")["cssContentSize"]
        return {**size, "scale": 1}

    def close(self) -> None:
        """Close the page."""
        self._browser.send("Target.closeTarget", targetId=self._target)
