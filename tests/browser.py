"""A Chromium driven through a pipe: pages from disk are opened, questioned and pressed in tests.

It speaks Chromium's own DevTools protocol, so it needs nothing but the browser.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# No network but this machine, no window; the sandbox needs rights that a container lacks.
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
OPTIONS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage"]
# The browser reads commands from its file 3, and writes answers into 4.
START = """if True:
    import os, sys
    os.dup2(int(sys.argv[1]), 3)
    os.dup2(int(sys.argv[2]), 4)
    os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A page in the browser. requests: addresses it asked for; errors: what its scripts threw."""

    def __init__(self, send_to, receive_from):
        self.out, self.inward, self.number, self.session = send_to, receive_from, 0, None
        self.events, self.requests, self.errors = [], [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Send a command; its result. RuntimeError if the browser refuses it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        self.out.flush()
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def receive(self):
        data = bytearray()
        while (byte := self.inward.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("The browser has gone.")
            data += byte
        answer = json.loads(data)
        parameters = answer.get("params", {})
        match answer.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(parameters["exceptionDetails"])
            case "Log.entryAdded":
                self.errors.append(parameters["entry"]["text"])
        if "method" in answer:
            self.events.append(answer["method"])
        return answer

    def open(self, path):
        """Open a file, and wait until its scripts have run."""
        self.visit(Path(path).resolve().as_uri())

    def visit(self, address):
        """Open an address, and wait until its scripts have run."""
        self.events.clear()
        self.send("Page.navigate", url=address)
        while "Page.loadEventFired" not in self.events:
            self.receive()

    def ask(self, expression):
        """Value of a JavaScript expression; a promise is awaited. RuntimeError if it throws."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, expression, *, seconds=60):
        """Wait until a JavaScript expression is true; TimeoutError if it does not become so."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {expression}")
            time.sleep(0.05)

    def press(self, key, code):
        """Press and release a key, given its name and its number, such as ("Enter", 13)."""
        names = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        if key in ("Enter", " "):
            names["text"] = chr(code)
        self.send("Input.dispatchKeyEvent", type="keyDown", **names)
        names.pop("text", None)
        self.send("Input.dispatchKeyEvent", type="keyUp", **names)

    def resize(self, width, height=900, *, scheme="light"):
        """Set the window's size in pixels, and the reader's preference for light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])


def _high(descriptor):
    """The same file under a number that 3 and 4 cannot take away."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return copy


@contextlib.contextmanager
def open_browser():
    """Start a Chromium, and give a `Page` of it; the browser ends with the block."""
    to_read, to_write = (_high(end) for end in os.pipe())
    from_read, from_write = (_high(end) for end in os.pipe())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
        browser = subprocess.Popen(
            [sys.executable, "-c", START, str(to_read), str(from_write), *command],
            pass_fds=(to_read, from_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        with open(to_write, "wb") as out, open(from_read, "rb") as inward:
            try:
                yield Page(out, inward)
            finally:
                browser.terminate()
                browser.wait(timeout=30)
