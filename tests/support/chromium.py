"""Chromium without a window, as a person has it: pages that scroll and load pictures as they do.

It is spoken to through two pipes in the Chrome DevTools Protocol. ``chromium --dump-dom`` is
shorter, and no stand-in for a browser: it loads every picture at once, ``loading="lazy"`` or not.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

PIPES = 'exec "$@" 3</dev/fd/{orders} 4>/dev/fd/{answers}'
"""Chromium reads orders from descriptor 3 and answers on 4."""


def require_chromium() -> str:
    """Return the program; skip the test where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    pytest.skip("no Chromium is installed")


class Tab:
    """A tab of a Chromium that runs."""

    def __init__(self, orders: int, answers: int) -> None:
        self.orders, self.answers = orders, answers
        self.rest = b""
        self.number = 0
        self.session: str | None = None
        self.asked: list[str] = []
        """Addresses that pages have asked for, where `note_requests` was called."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a method of the protocol."""
        self.number += 1
        order = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.orders, json.dumps(order).encode() + b"\0")
        while (said := self.message()).get("id") != self.number:
            pass
        assert "error" not in said, said
        return said["result"]

    def message(self) -> dict[str, Any]:
        """Return the next answer or event."""
        while b"\0" not in self.rest:
            part = os.read(self.answers, 1 << 20)
            assert part, "Chromium has ended"
            self.rest += part
        data, _, self.rest = self.rest.partition(b"\0")
        said = json.loads(data)
        if said.get("method") == "Network.requestWillBeSent":
            self.asked.append(said["params"]["request"]["url"])
        return said

    def note_requests(self) -> None:
        """Keep the address of each request from now on, in `asked`."""
        self.call("Network.enable")

    def open(self, page: Path | str, width: int, height: int) -> None:
        """Open a file or an address in a view of so many pixels, until it has loaded."""
        self.resize(width, height)
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while self.message().get("method") != "Page.loadEventFired":
            pass

    def resize(self, width: int, height: int) -> None:
        """Give the view so many pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip

    def evaluate(self, expression: str) -> Any:
        """Return what JavaScript says, a promise waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True,
                          returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float) -> None:
        """Wait until JavaScript says that a condition holds, on whatever page comes meanwhile."""
        end = time.monotonic() + seconds
        while True:
            with suppress(AssertionError):  # of a page that is just being left
                if self.evaluate(condition) is True:
                    return
            if time.monotonic() > end:
                shown = self.evaluate("location.href + '\\n' + document.body.innerText")
                raise AssertionError(f"{condition}: did not come to that\n{shown}")
            time.sleep(0.2)

    def press(self, key: str) -> None:
        """Press a key: "Tab", "Enter", " ", "ArrowDown" or "ArrowRight"."""
        keys = {
            "Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "),
            "ArrowDown": (40, ""), "ArrowRight": (39, ""),
        }  # fmt: skip
        code, text = keys[key]
        for kind in ("keyDown", "keyUp"):
            said = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **said)  # fmt: skip

    def tab_to(self, selector: str, most: int = 150) -> None:
        """Press Tab until what ``selector`` names has the focus, as somebody without a mouse."""
        for _ in range(most):
            self.press("Tab")
            if self.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"{selector} is not reached by the keyboard")

    def double_click(self, selector: str) -> None:
        """Click twice with the mouse on what ``selector`` names, as those do who always do so."""
        found = f"document.querySelector({json.dumps(selector)})"
        x, y = self.evaluate(
            f"{found}.scrollIntoView({{block: 'center'}});"
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])({found}"
            ".getBoundingClientRect())"
        )
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                          clickCount=count)  # fmt: skip

    def beside(self) -> Tab:
        """Return another tab of the same browser; the two are spoken to by turns."""
        return Tab(self.orders, self.answers)

    def choose_files(self, selector: str, files: Sequence[Path]) -> None:
        """Give files to a file field, as dropping them on it does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in files])

    def screenshot(self) -> bytes:
        """Return the whole page as a PNG, its pictures loaded."""
        self.evaluate(
            "Promise.all([...document.images].map(image => {"
            "image.loading = 'eager'; return image.decode().catch(() => null) }))"
        )
        said = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(said["data"])


@contextmanager
def chromium_tab(profile: Path) -> Iterator[Tab]:
    """Start Chromium with a new profile, and end it; skips the test where there is none."""
    chromium = require_chromium()
    read_orders, orders = os.pipe()
    answers, write_answers = os.pipe()
    start = PIPES.format(orders=read_orders, answers=write_answers)
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--remote-debugging-pipe", f"--user-data-dir={profile}",
    ]  # fmt: skip
    with subprocess.Popen(["sh", "-c", start, "sh", *command], stderr=subprocess.DEVNULL,
                          pass_fds=(read_orders, write_answers)) as process:  # fmt: skip
        os.close(read_orders)
        os.close(write_answers)
        try:
            yield Tab(orders, answers)
        finally:
            os.close(orders)  # Chromium ends with its orders
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            os.close(answers)
