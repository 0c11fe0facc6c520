"""The monitor's page in a browser: lanes end as closed, a reset becomes visible, and both keyboard and phone work.

`python -m tests.browser.test_monitor_page` makes the picture in the documentation, docs/pictures/monitor.png.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reactor import Reactor
from samples import echo
from tests.browser import chromium
from tests.samples.processes import wait_for

pytest.importorskip("h11")
pytest.importorskip("prometheus_client")

from samples.monitor import attach

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing())),
]

# Keys, as WebDriver names them.
ESCAPE, ARROW_RIGHT = "\ue00c", "\ue014"

PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "monitor.png"


class Monitored:
    """An echo server and its monitor, running in a thread."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.monitor = attach(self.reactor, 0, teach=True).addresses[0][1]
        self.port = echo.serve(self.reactor, "127.0.0.1", 0).addresses[0][1]
        self._thread = threading.Thread(target=self.reactor.run)
        self._thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def close(self) -> None:
        self.reactor.call_soon_threadsafe(self.reactor.drain, 2)
        self._thread.join(20)
        self.reactor.close()


@contextmanager
def monitored() -> Iterator[Monitored]:
    made = Monitored()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests: it takes longer to start than they do."""
    with chromium.browser() as started:
        yield started


@pytest.fixture
def shown():
    with monitored() as made:
        yield made


class Page:
    """The monitor's page, as somebody sees and uses it."""

    def __init__(self, browser: Any, shown: Monitored) -> None:
        self.browser = browser
        browser.get(f"http://127.0.0.1:{shown.monitor}/")
        self.complaints()  # those of an earlier page, whose reactor has gone
        self.until("#status[data-is=live]")

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def until(self, selector: str):
        """What the selector finds, once it finds something."""
        found: list = []
        wait_for(lambda: found.extend(self.all(selector)) or found, f"the page never has {selector}")
        return found[0]

    def until_text(self, selector: str, text: str) -> None:
        wait_for(lambda: text in self.text(selector), f"{selector} never says {text!r}")

    def text(self, selector: str) -> str:
        look = "return (document.querySelector(arguments[0]) || {textContent: ''}).textContent"
        return self.browser.execute_script(look, selector)

    def button(self, words: str):
        """The one that says so. It is looked for in one step: asked one by one, a button may be gone by then."""
        buttons = "[...document.querySelectorAll('button')]"
        look = f"return {buttons}.filter(one => one.checkVisibility() && one.innerText === arguments[0])"
        (found,) = self.browser.execute_script(look, words)
        return found

    def press(self, *keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        return self.browser.execute_script("return document.activeElement.id || document.activeElement.className")

    def fill_queue(self, sock: socket.socket) -> None:
        """Sends and does not read, until the server's queue is above its high watermark."""

        def is_full() -> bool:
            try:
                while sock.send(b"x" * 65536):
                    pass
            except BlockingIOError:
                return bool(self.all("li:not(.ended) .queue .fill.above"))

        sock.setblocking(False)
        wait_for(is_full, "the queue never fills")
        sock.setblocking(True)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


def test_the_lane_of_a_closing_connection_ends_as_closed(browser, shown):
    """Open; one half closed; closed, in order, with its report."""
    page = Page(browser, shown)
    with shown.connect() as sock:
        page.until('li[data-state="OPEN"][data-input="open"][data-output="open"]')
        sock.sendall(b"hello")
        page.until_text("#lanes .in .moved", "5 B")
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(100):
            pass
    lane = page.until('li.ended[data-state="CLOSED"][data-input="closed"][data-output="closed"]')
    assert "in order" in lane.text
    assert "written 5 B, acknowledged 5 B, received 5 B" in lane.text
    assert page.complaints() == []


def test_half_a_connection_is_shown_as_half_closed(browser, shown):
    """A peer's FIN closes one half while an answer still waits: the other half is ending."""
    page = Page(browser, shown)
    with shown.connect() as sock:
        page.fill_queue(sock)
        sock.shutdown(socket.SHUT_WR)
        page.until("li .channel.in.is-ending")  # the echo does not read from a peer that does not
        while sock.recv(1 << 20):
            pass
    page.until("li.ended .report.is-open")


def test_a_click_opens_the_story(browser, shown):
    """A sequence diagram of what happened, which follows as text; Escape closes it, and the focus returns."""
    page = Page(browser, shown)
    with shown.connect() as sock:
        sock.sendall(b"hello")
        page.until("#lanes button").click()
        page.until_text(".diagram svg", "received 5 B")
        assert page.focused() == "story-title"
        sock.shutdown(socket.SHUT_WR)
        page.until_text(".diagram svg", "peer FIN")
        page.until_text(".diagram svg", "our FIN")
        page.until_text(".diagram svg", "closed in order")
    assert "eof_received" in page.text("#story-text")
    assert "data_received" in page.text(".diagram svg")
    page.press(ESCAPE)
    wait_for(lambda: not page.all("#story")[0].is_displayed(), "the story stays")
    assert page.focused() == "lane"
    assert page.complaints() == []


def test_a_lesson_makes_a_reset_visible(browser, shown):
    """One button: the scripted peer closes with unread data, and the lane breaks."""
    page = Page(browser, shown)
    page.button("A close with unread data").click()
    page.until('li.ended[data-input="broken"][data-output="broken"]')
    assert "ConnectionResetError" in page.text("li.ended .report")
    page.until_text("#narration", "sends a reset")
    page.until_text(".diagram svg", "ConnectionResetError")
    assert "unread bytes: the kernel resets" in page.text("#peers")
    assert page.complaints() == []


def test_a_lesson_shows_that_late_bytes_do_no_harm(browser, shown):
    """They come after our FIN, are discarded, and the lane ends in order."""
    page = Page(browser, shown)
    page.button("Late bytes after our close").click()
    page.until_text("li.ended .report", "discarded 9 B")
    assert "in order" in page.text("li.ended .report")
    page.until_text(".diagram svg", "lingering")
    page.until_text("#peers .state", "closed in order: both FINs were seen")


def test_buttons_drive_a_peer(browser, shown):
    """A new peer does what it is told, step by step; what it cannot do is said."""
    page = Page(browser, shown)
    page.button("New peer").click()
    page.until("li .tag:not([hidden])")
    page.button("Send hello").click()
    page.until_text("#peers .state", "read 6 B")
    page.button("Ask us to end").click()
    page.until('li[data-state="LINGER"][data-output="closed"]')
    page.button("Send hello").click()
    page.button("FIN").click()
    page.until("li.ended .report")
    page.until_text("li.ended .report", "discarded 6 B")
    assert "in order" in page.text("li.ended .report")


def test_the_loop_is_shown(browser, shown):
    """With the arrow keys one gets there; a slow timer is named."""
    page = Page(browser, shown)
    page.all("#tab-connections")[0].click()
    page.press(ARROW_RIGHT)
    assert page.focused() == "tab-loop"
    shown.reactor.call_soon_threadsafe(shown.reactor.call_later, 0.01, threading.Event().wait, 0.05)
    page.until_text("#slow", "wait")
    page.until("#chart-turns .curve")
    assert page.complaints() == []


def test_a_blocked_loop_is_told(browser, shown):
    """A page that hears nothing does not look alive; and does again when the news come."""
    page = Page(browser, shown)
    go_on = threading.Event()
    shown.reactor.call_soon_threadsafe(go_on.wait, 20)
    try:
        page.until_text("#status", "is the loop blocked?")
    finally:
        go_on.set()
    page.until("#status[data-is=live]")


def test_what_a_peer_is_called_is_text(browser, tmp_path):
    """A Unix socket's name with markup in it is shown, and does nothing."""
    shown = Monitored()
    try:
        path = str(tmp_path / "<img src=x onerror=alert(1)>")
        shown.reactor.call_soon_threadsafe(lambda: echo.serve(shown.reactor, path=str(tmp_path / "echo")))
        wait_for(lambda: (tmp_path / "echo").exists(), "no socket")
        page = Page(browser, shown)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            sock.connect(str(tmp_path / "echo"))
            page.until_text("li .peer-name", "<img src=x onerror=alert(1)>")
        assert page.all("#lanes img") == []
    finally:
        shown.close()


def test_the_page_says_when_the_reactor_has_drained(browser):
    """And does not look alive any more."""
    shown = Monitored()
    try:
        page = Page(browser, shown)
    finally:
        shown.close()
    page.until("#status[data-is=lost]")
    page.until_text("#status", "the reactor has drained")


def test_a_phone_is_wide_enough(browser, shown):
    """Nothing sticks out to the side, with a lane, its story and a peer open."""
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = Page(browser, shown)
        page.button("New peer").click()
        page.until("#lanes button").click()
        page.until(".diagram svg")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "width": 1280, "mobile": False})


def picture() -> None:
    """Connections in every state, one of them opened, as docs/pictures/monitor.png."""
    with (
        monitored() as shown,
        chromium.browser(1360, 1230) as browser,
        shown.connect() as quiet,
        shown.connect() as stalled,
    ):
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [still]})
        page = Page(browser, shown)
        quiet.sendall(b"hello")
        page.fill_queue(stalled)
        page.button("A close with unread data").click()
        page.until("li.ended .report.is-broken")
        page.until("#lessons button:enabled")
        page.button("Late bytes after our close").click()
        page.until("li.ended .report.is-open")
        page.until("#lessons button:enabled")
        page.button("New peer").click()
        page.until(".peer:not(.gone)")
        page.button("Send hello").click()
        page.until_text("#peers .state", "read 6 B")
        page.button("Ask us to end").click()
        page.until('li[data-state="LINGER"]')
        PICTURE.parent.mkdir(exist_ok=True)
        browser.save_screenshot(str(PICTURE))


if __name__ == "__main__":
    picture()
