"""A headless Chromium, spoken to by its DevTools protocol over pipes: it needs no driver and no port."""

import base64
import json
import os
import select
import subprocess
import time

PATIENCE = 120  # seconds for an answer: a busy machine may start slowly


class Chromium:
    """One tab. Use it in a `with`.

    Args:
        program: path of chromium.
        folder: path of an empty folder for its profile.
        size: `(width, height)` of the window in pixels.
    """

    def __init__(self, program, folder, size):
        (to_it, self._to), (self._from, from_it) = os.pipe(), os.pipe()
        # It reads messages from file 3 and writes to file 4. As root it has no sandbox.
        width, height = size
        command = ["bash", "-c", f'exec "$@" 3<&{to_it} 4>&{from_it}', "bash", program, "--headless=new"]
        command += ["--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        command += [f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(to_it, from_it), stderr=subprocess.DEVNULL)
        os.close(to_it)
        os.close(from_it)
        self._rest, self._number, self._session = b"", 0, None

    def __enter__(self):
        targets = self.call("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method, **params):
        """Calls a method of the protocol: its result, a dict.

        Raises:
            RuntimeError: with what Chromium says is wrong.
            TimeoutError: if it does not answer.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._read(end)
            if answer.get("id") == self._number:
                break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self, end):
        """The next message, an answer or an event."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium did not answer in {PATIENCE} s.")
            part = os.read(self._from, 1 << 16)
            if not part:
                raise RuntimeError(f"Chromium ended with {self._process.wait()}.")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression):
        """The value of an expression in JavaScript; of a promise, once it is there."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression):
        """Waits until an expression is true.

        Raises:
            TimeoutError: with the text of the page.
        """
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            if time.monotonic() > end:
                text = self.evaluate("document.body.innerText")
                raise TimeoutError(f"{expression} did not come true in {PATIENCE} s. The page says: {text}")
            time.sleep(0.1)

    def stroke(self, points):
        """Draws with the pressed left button of the mouse.

        Args:
            points: list of `(x, y)` in pixels of the window.
        """
        events = [("mousePressed", points[0]), *(("mouseMoved", point) for point in points[1:])]
        for kind, (x, y) in [*events, ("mouseReleased", points[-1])]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self, path):
        """Writes what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
