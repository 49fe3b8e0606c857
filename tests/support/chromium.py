"""Chromium without a window, as a person has it: pages that scroll and load pictures as they do.

It is spoken to through two pipes in the Chrome DevTools Protocol. ``chromium --dump-dom`` is
shorter, and no stand-in for a browser: it loads every picture at once, ``loading="lazy"`` or not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
        self.orders, self.answers = orders, os.fdopen(answers, "rb", closefd=False)
        self.number = 0
        self.session: str | None = None
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
        data = b""
        while not data.endswith(b"\0"):
            part = self.answers.read(1)
            assert part, "Chromium has ended"
            data += part
        return json.loads(data[:-1])

    def open(self, page: Path, width: int, height: int) -> None:
        """Open a page in a view of so many pixels, until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.call("Page.navigate", url=page.as_uri())
        while self.message().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """Return what JavaScript says, a promise waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True,
                          returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


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
