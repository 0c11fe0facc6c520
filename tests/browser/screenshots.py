"""`python -m tests.browser.screenshots [DIRECTORY]`: pictures of the chat's page, for the docs and for looking at.

Into DIRECTORY (docs/pictures) comes `chat.png`; with a DIRECTORY of your own also the phone's width, and the dark ones.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.chromium import browser

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 20.0

TALK = (
    ("ben", "morning! did the release go out last night?"),
    ("carla", "yes, at 23:40. The old nodes drained in four seconds, not one reset in the log"),
    ("carla", "longest end was a phone in a tunnel: flushed after 9 s, then its FIN"),
    ("ann", "lovely. I watched the lanes on the monitor close one by one"),
    ("ben", "what was it before? I remember resets by the hundred"),
    ("ann", "we called close() with unread bytes in the buffer, so the kernel sent RST and threw the last reply away"),
    ("ann", "now it is FIN, read on until theirs, and only then the descriptor"),
    ("dewi", "hello from a terminal: nc speaks to you as well"),
    ("carla", "<b>hello dewi</b>, and nobody's markup gets into the page"),
    ("ben", "tea at four? I'll bring the capture of the half-closed one"),
)


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """A chat of its own: the page's address, and nc's port."""
    command = [sys.executable, "-m", "samples.webchat", "--port", "0", "--chat-port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            page, nc = (process.stdout.readline().rpartition(":")[2] for _ in range(2))
            yield f"http://127.0.0.1:{int(page)}/", int(nc)
        finally:
            process.terminate()


class Talker:
    """Somebody with nc."""

    def __init__(self, port: int, name: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self.say(f"/nick {name}")
        self.hear(f" is now {name}")

    def say(self, line: str) -> None:
        self._socket.sendall(f"{line}\n".encode())

    def hear(self, wanted: str) -> None:
        while wanted not in self._lines.readline():
            pass

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def photograph(path: Path, width: int, height: int, *, dark: bool = False, pixels: float = 1, look: str = "") -> None:
    """A conversation, seen by ann. `look` is done first: the "rooms" drawer, a "cut" connection, the "welcome"."""
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        url, port = running.enter_context(server())
        window = stack.enter_context(browser(width, height, dark=dark, pixels=pixels))
        talkers = {}
        for name, room in (("gwen", "tea"), ("hal", "kernel"), ("ben", ""), ("carla", ""), ("dewi", "")):
            talkers[name] = Talker(port, name)
            stack.callback(talkers[name].close)
            if room:
                talkers[name].say(f"/join {room}")
                talkers[name].hear(f"joined {room}")
        window.get(f"{url}")
        wait = WebDriverWait(window, PATIENCE)
        wait.until(lambda _: _state(window) == "open")
        if look == "welcome":
            window.save_screenshot(str(path))
            return
        field = window.find_element(By.ID, "say")
        field.send_keys("/nick ann", Keys.ENTER)
        wait.until(lambda _: _text(window, (By.ID, "my-name")) == "ann")
        for name, text in TALK:
            if name == "ann":
                field.send_keys(text, Keys.ENTER)
            else:
                talkers[name].say(text)
            wait.until(lambda _, text=text: text in _text(window, (By.ID, "logs")))
        for name, room, lines in (("gwen", "tea", 3), ("hal", "kernel", 12)):
            for number in range(lines):
                talkers[name].say(f"line {number}")
            badge = (By.CSS_SELECTOR, f'[data-room="{room}"] .badge')
            wait.until(lambda _, badge=badge, lines=lines: f"{lines} unread" in _text(window, badge))
        if look == "rooms":
            window.find_element(By.CSS_SELECTOR, ".rooms-opener").click()
            wait.until(lambda _: window.execute_script("return document.getAnimations().length") == 0)
        elif look == "cut":
            running.close()
            wait.until(lambda _: _state(window) == "waiting")
        else:
            field.send_keys("of course")
        window.save_screenshot(str(path))


def _text(window: Any, where: tuple[str, str]) -> str:
    return "".join(found.get_attribute("textContent") for found in window.find_elements(*where))


def _state(window: Any) -> str:
    return window.find_element(By.ID, "state").get_attribute("data-state")


def main() -> int:
    if len(sys.argv) == 1:
        photograph(ROOT / "docs" / "pictures" / "chat.png", 1180, 740, pixels=1.5)
        return 0
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for dark in (False, True):
        shade = "dark" if dark else "light"
        photograph(directory / f"desktop-{shade}.png", 1180, 740, dark=dark)
        photograph(directory / f"phone-{shade}.png", 390, 780, dark=dark, pixels=2)
        photograph(directory / f"rooms-{shade}.png", 390, 780, dark=dark, pixels=2, look="rooms")
    photograph(directory / "cut.png", 900, 700, look="cut")
    photograph(directory / "welcome.png", 1180, 740, look="welcome")
    return 0


if __name__ == "__main__":
    sys.exit(main())
