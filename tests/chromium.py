"""A headless Chromium driven over the Chrome DevTools Protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
_OFFLINE = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
_KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}
_CONTROL, _SHIFT = 2, 8


class Chromium:
    """A browser with one page; as a context it is ended at the end.

    Attributes:
        errors: what the page's console, its scripts and its policy complained of.
        requested: the address of each request of the page.
    """

    def __init__(self, profile: Path):
        self.process = subprocess.Popen(
            [
                str(CHROMIUM),
                *_QUIET,
                *_OFFLINE,
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.errors: list[str] = []
        self.requested: list[str] = []
        self._numbers = itertools.count(1)
        self._connection = connect(self._address(profile / "DevToolsActivePort"), max_size=None, open_timeout=30)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.process.terminate()
        self.process.wait(timeout=30)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; what happens on the page meanwhile is noted."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                return dict(message["result"])
            self._note(message.get("method"), message.get("params", {}))

    def open(self, url: str) -> None:
        """Goes to an address and waits until the page is there."""
        self.send("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """A JavaScript expression's value."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Polls a JavaScript condition; fails when the time is up."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, (condition, self.evaluate("document.body.innerText"), self.errors)
            time.sleep(0.02)

    def press(self, key: str, *, control: bool = False, shift: bool = False) -> None:
        """A key down and up: Tab, Enter, an arrow, or a character."""
        modifiers = _CONTROL * control + _SHIFT * shift
        text = "\r" if key == "Enter" else "" if key in ("Tab", "ArrowDown") else key
        known = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS.get(key, 0), "modifiers": modifiers}
        self.send("Input.dispatchKeyEvent", type="keyDown", **known, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text: str) -> None:
        """A text, character by character."""
        for character in text:
            self.press(character)

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size of the page's window, in CSS pixels."""
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def prefer(self, **features: str) -> None:
        """What the user prefers, as `prefers_color_scheme="dark"`."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", features=named)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        image = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(image["data"]))

    def _note(self, method: str | None, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{parameters['entry']['source']}: {parameters['entry']['text']}")

    def _address(self, file: Path) -> str:
        """Where the page listens, once the browser has written its port."""
        end = time.monotonic() + 60
        while not file.is_file() or not file.read_text().strip():
            assert self.process.poll() is None, "the browser ended"
            assert time.monotonic() < end, "the browser does not start"
            time.sleep(0.02)
        targets = httpx.get(f"http://127.0.0.1:{file.read_text().split()[0]}/json/list", timeout=30).json()
        return str(next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page"))
