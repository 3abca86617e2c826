"""Chromium without a window: what it shows of a page, and a hand to press keys and click.

Driven by its own protocol over a pair of pipes (``--remote-debugging-pipe``: messages of JSON that
end with a zero byte, in at descriptor 3 and out at 4), so no driver and no port are needed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Tab": 9}
_KEYS |= {"Enter": 13, "Delete": 46, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36}
_CONTROL, _SHIFT = 2, 8

# every image decoded, and a frame begun after the one that shows them
PAINTED = """new Promise(done => requestAnimationFrame(() => requestAnimationFrame(
    () => done([...document.images].every(image => image.complete)))))"""


def chromium(what: str) -> str:
    """Its path; skips the test, saying ``what`` is not done, where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip(f"no chromium on PATH: {what}")
    return browser


class RefusedError(AssertionError):
    """The browser did not carry out a command."""


class Page:
    """A page that is open in a browser.

    Attributes:
        requested: addresses that it asked for, data URIs left out.
        problems: what it wrote to the console as errors, and exceptions that nothing caught.
    """

    def __init__(self, write: int, read: int) -> None:
        self.requested: list[str] = []
        self.problems: list[str] = []
        self._write, self._read = write, read
        self._waiting = b""
        self._number = 0
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def open(self, address: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Go to an address, in a window of this size, and wait until it is loaded."""
        self.resize(width, height, dark)
        self.send("Page.navigate", url=address)
        self.until(f"location.href == {json.dumps(address)} && document.readyState == 'complete'")

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """A window of this size, in a light or dark scheme; narrow ones are telephones."""
        mobile = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.send("Runtime.evaluate", **given)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true; while a page gives way to another, none is."""
        deadline = time.monotonic() + seconds
        while True:
            fault = ""
            try:
                if self.value(expression):
                    return
            except RefusedError as refused:  # "Inspected target navigated or closed", for one
                fault = f" ({refused})"
            assert time.monotonic() < deadline, f"never true: {expression}{fault}"
            time.sleep(0.05)

    def press(self, key: str, shift: bool = False, control: bool = False) -> None:
        """Press and release a key."""
        held = (_SHIFT if shift else 0) + (_CONTROL if control else 0)
        event: dict[str, Any] = {"key": key, "modifiers": held}
        event["windowsVirtualKeyCode"] = _KEYS.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 and not control else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the first element is that a selector finds, scrolled into sight."""
        x, y = self.value(
            f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        return x, y

    def hover(self, selector: str) -> None:
        """Move the mouse there."""
        x, y = self.middle(selector)
        self.mouse("mouseMoved", x, y)

    def click(self, selector: str) -> None:
        """Press and release the mouse there."""
        x, y = self.middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def drag(self, points: list[tuple[float, float]]) -> None:
        """Press the mouse at the first point, move it over the others, and let it go."""
        self.mouse("mouseMoved", *points[0])
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            self.mouse("mouseMoved", *point, pressed=True)
        self.mouse("mouseReleased", *points[-1])

    def mouse(self, kind: str, x: float, y: float, pressed: bool = False) -> None:
        """``mouseMoved``, ``mousePressed`` or ``mouseReleased``, with the left button."""
        moved = kind == "mouseMoved"
        button = {"button": "left"} if pressed or not moved else {}
        button |= {} if moved else {"clickCount": 1}
        held = {"buttons": 1} if pressed or kind == "mousePressed" else {}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button, **held)

    def wheel(self, selector: str, by: float) -> None:
        """Turn the wheel there, by so many pixels downwards."""
        x, y = self.middle(selector)
        turned = {"deltaX": 0, "deltaY": by}
        self.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, **turned)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save what is in the window, or the whole page, as PNG."""
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RefusedError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._read], [], [], 60)
            part = os.read(self._read, 2**16) if ready else b""
            assert part, "chromium does not answer"
            self._waiting += part
        message, self._waiting = self._waiting.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            address = event["request"]["url"]
            if not address.startswith("data:"):
                self.requested.append(address)
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.problems.append(str(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(event["entry"]["text"])


@contextmanager
def opened(browser: str, folder: Path) -> Iterator[Page]:
    """A browser with a profile of its own in ``folder``, gone at the end."""
    (their_in, write), (read, their_out) = os.pipe(), os.pipe()

    def put() -> None:  # where the browser looks for them; copies first, as numbers may cross
        copies = [os.dup(end) for end in (their_in, their_out)]
        for copy, place in zip(copies, (3, 4), strict=True):
            os.dup2(copy, place)

    process = subprocess.Popen(
        [browser, *QUIET, f"--user-data-dir={folder}", "--remote-debugging-pipe"],
        preexec_fn=put,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (their_in, their_out):
        os.close(end)
    try:
        yield Page(write, read)
    finally:
        for end in (write, read):  # with its pipes it goes, and its children
            os.close(end)
        try:
            process.wait(timeout=30)
        finally:
            process.kill()
