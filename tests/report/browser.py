"""Headless Chromium over the DevTools protocol, on a pair of pipes: no further package."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

# a report inflates its maps after it has loaded; an error is seen by the test that reads `errors`
_SETTLED = """new Promise((done) => {
    const end = performance.now() + 60000;
    const look = () => (!document.getElementById('map-data')
        || document.documentElement.dataset.map === 'ready' || performance.now() > end
        ? done() : setTimeout(look, 20));
    look();
})"""


def find_chromium():
    """Path of a Chromium, or None."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


class Browser:
    """One page in a headless Chromium.

    ``errors`` collects exceptions and console errors, ``requests`` every address that the page
    asked for.
    """

    def __init__(self, executable, *flags):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        command = [
            executable,
            "--headless",
            "--no-sandbox",
            *(flags or ("--disable-gpu",)),
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={self._profile.name}",
            "--remote-debugging-pipe",
            "about:blank",
        ]

        def as_three_and_four():
            """Give Chromium the pipes as descriptors 3 and 4, whatever their numbers are here."""
            held = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
            os.dup2(held[0], 3)
            os.dup2(held[1], 4)

        self._process = subprocess.Popen(
            command,
            pass_fds=(3, 4),
            preexec_fn=as_three_and_four,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._count = b"", 0
        self._events, self._session = [], None
        self.errors, self.requests = [], []
        pages = self.send("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in pages if one["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        try:
            self._session = None
            self.send("Browser.close")
        except (EOFError, OSError):
            pass
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def send(self, method, **params):
        """Call a method of the protocol and return its result."""
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
            self._note(found)

    def open(self, path, *, width=1280, height=900, scheme="light", fragment="", mobile=False):
        """Load a file and wait for its script."""
        self.errors, self.requests, self._events = [], [], []
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url="about:blank")
        self._wait("Page.loadEventFired")
        self._events = []
        self.send("Page.navigate", url=Path(path).resolve().as_uri() + fragment)
        self._wait("Page.loadEventFired")
        self.evaluate(_SETTLED)

    def evaluate(self, expression):
        """Value of a JavaScript expression."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def point(self, x, y, *, click=False):
        """Move the pointer to a place in the window, and click there."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.send(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
                )

    def print(self):
        """Print the page as a reader would, without backgrounds: the bytes of a PDF."""
        found = self.send("Page.printToPDF", printBackground=False)
        self.settle()
        return base64.b64decode(found["data"])

    def settle(self):
        """Wait until the page has drawn twice."""
        self.evaluate("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")

    def screenshot(self, path, *, full=False):
        """Save a picture of the window, or of the whole page."""
        options = {"captureBeyondViewport": True} if full else {}
        found = self.send("Page.captureScreenshot", format="png", **options)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def _wait(self, event, seconds=60):
        end = time.monotonic() + seconds
        while event not in self._events:
            if time.monotonic() > end:
                raise TimeoutError(event)
            self._note(self._next())

    def _note(self, message):
        method, params = message.get("method"), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(
                params["exceptionDetails"].get("text", "")
                + str(params["exceptionDetails"].get("exception", {}).get("description"))
            )
        elif method == "Runtime.consoleAPICalled" and params["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def _next(self):
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise EOFError("the browser went away")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
