"""A headless Chromium, steered over its debugging pipe: real widths, real keys, and what a page looks like."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CHROMIUM", "Browser", "open_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40, "End": 35}


class Browser:
    """One tab.

    Attributes:
        complaints: What the console said: errors of scripts, and what the page's policy forbids.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, awaited: str = "") -> dict[str, Any]:
        """Return the next message, or the next event of a name."""
        while True:
            while b"\0" not in self._buffer:
                chunk = os.read(self._answers, 1 << 20)
                if not chunk:
                    raise RuntimeError("the browser has ended")
                self._buffer += chunk
            text, self._buffer = self._buffer.split(b"\0", 1)
            message: dict[str, Any] = json.loads(text)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"])[:400])
            if not awaited or message.get("method") == awaited:
                return message

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Load a page in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self._next("Page.loadEventFired")

    def ask(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression; the page's policy does not concern it."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:600])
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key such as Tab or Enter."""
        own: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **own, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **own)

    def type(self, text: str) -> None:
        """Type text where the focus is."""
        for character in text:
            self.call("Input.dispatchKeyEvent", type="char", text=character)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of what the window shows, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser that keeps its files in a folder and reaches no network."""
    assert CHROMIUM is not None
    there, commands = os.pipe()
    answers, back = os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}"]

    def place() -> None:  # the browser reads commands at 3 and answers at 4
        for number, wanted in ((os.dup(there), 3), (os.dup(back), 4)):
            os.dup2(number, wanted)

    process = subprocess.Popen(
        [CHROMIUM, *flags],
        preexec_fn=place,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    os.close(there)
    os.close(back)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)
        process.terminate()
        process.wait(timeout=20)
        os.close(answers)
