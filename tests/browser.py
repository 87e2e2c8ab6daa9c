"""A headless Chromium that a test drives by the DevTools protocol: pages as people see and work them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

#: WebGL drawn by the processor: there is no graphics card where tests run.
SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


#: How Chromium says that the page went away while a script ran in it.
GONE = (
    "Inspected target navigated or closed",
    "Execution context was destroyed.",
    "Cannot find context with specified id",
)


class PageGone(Exception):
    """The page was left for another while something was asked of it."""


class Browser:
    """One tab.

    Attributes:
        trouble: uncaught errors of scripts and requests that failed, as the browser tells them.
        requested: addresses that the pages have asked for, in order.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")
        self._program = shutil.which("chromium") or shutil.which("chromium-browser")
        if self._program is None:
            pytest.skip("Chromium is not installed")
        self.trouble: list[str] = []
        self.requested: list[str] = []
        self._count = 0
        self._folder, self._options = folder, options
        self._set: list[tuple[str, dict[str, object]]] = []
        self._went = False
        self._start()
        self.resize(1280, 1000)

    def _start(self) -> None:
        folder, options = self._folder, self._options
        self._process = subprocess.Popen(
            [
                self._program,
                *("--headless", "--no-sandbox", "--no-first-run", "--disable-dev-shm-usage"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}"),
                *options,
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        said = folder / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (said.exists() and said.read_text().count("\n")):
            assert time.monotonic() < until and self._process.poll() is None, "Chromium did not start"
            time.sleep(0.1)
        port = said.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
        self._socket = self._websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=120)
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._socket.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **parameters: object) -> dict:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._count:
                if message.get("error", {}).get("message", "") in GONE:
                    raise PageGone(message["error"]["message"])
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        method, said = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requested.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.trouble.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Network.responseReceived" and said["response"]["status"] >= 400:
            self.trouble.append(f"{said['response']['status']} {said['response']['url']}")

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._setting("Emulation.setDeviceMetricsOverride", size)

    def cookie(self, name: str, value: str, url: str) -> None:
        self._setting("Network.setCookie", {"name": name, "value": value, "url": url})

    def _setting(self, method: str, parameters: dict[str, object]) -> None:
        self._set.append((method, parameters))
        self.call(method, **parameters)

    def go(self, url: str) -> None:
        try:
            self._go(url)
        except (self._websocket.WebSocketConnectionClosedException, ConnectionError):
            # On a busy machine Chromium falls over now and then while it starts, which is no fault of the page.
            if self._went:
                raise
            self.close()
            (self._folder / "DevToolsActivePort").unlink(missing_ok=True)
            self._start()
            for method, parameters in self._set:
                self.call(method, **parameters)
            self._go(url)
        self._went = True

    def _go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def run(self, script: str) -> object:
        """Value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> object:
        """Wait until an expression holds; on a page that is just being left, it does not hold yet."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(PageGone):
                if value := self.run(script):
                    return value
            assert time.monotonic() < until, f"not within {seconds} s: {script}; {self.trouble}"
            time.sleep(0.1)

    def click(self, selector: str) -> None:
        """Click as a person does, in the middle of an element that is brought into sight."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, code: int = 0, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def picture(self, selector: str = "") -> Image.Image:
        """What is seen: of one element, or of the whole page."""
        clip = {}
        if selector:
            x, y, width, height = self.run(
                f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                " return [r.x + scrollX, r.y + scrollY, r.width, r.height] })()"
            )
            clip = {"clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1}}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **clip)
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
