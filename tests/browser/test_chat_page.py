"""The chat's page in a real browser: two of them and somebody with nc, and a node that goes and comes."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.browser import chromium
from tests.samples.conftest import run  # noqa: F401 (a fixture)
from tests.samples.processes import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing())),
]


class Node:
    """A chat node as people run it; `start` starts another on the same ports."""

    def __init__(self, launch):
        self._launch = launch
        self._ports = ("0", "0")
        self.start()

    def start(self):
        self.sample = self._launch("webchat", "--port", self._ports[0], "--chat-port", self._ports[1])
        lines = self.sample.read_until(b"\n", 2).decode().splitlines()
        self._ports = tuple(line.rpartition(":")[2] for line in lines)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._ports[0]}/"

    def nc(self, name):
        sock = socket.create_connection(("127.0.0.1", int(self._ports[1])), 10)
        sock.sendall(f"/nick {name}\n".encode())
        return sock


class Page:
    """The chat in one window."""

    def __init__(self, window, node):
        self.window = window
        window.get(node.url)
        self.is_connected()

    def find(self, css):
        return self.window.find_element("css selector", css)

    def text(self, css):
        found = self.window.find_elements("css selector", css)
        return "\n".join(one.get_property("textContent") for one in found)

    def shows(self, css, wanted):
        wait_for(lambda: wanted in self.text(css), f"{css} does not show {wanted!r}")

    def is_connected(self):
        wait_for(lambda: self.find("#state").get_attribute("data-state") == "open", "the page does not connect")

    def type(self, *lines):
        for line in lines:
            self.find("#say").send_keys(line, "\ue007")  # Enter

    def named(self, name):
        self.type(f"/nick {name}")
        self.shows("#my-name", name)
        return self

    def complaints(self):
        """What the browser's console has against the page; that a server was away is not the page's fault."""
        return [one for one in self.window.get_log("browser") if "WebSocket connection to" not in one["message"]]


@pytest.fixture
def node(run):  # noqa: F811
    return Node(run)


@pytest.fixture
def page(node):
    with chromium.browser() as window:
        yield Page(window, node)


def test_two_browsers_and_an_nc_user_chat(node, page):
    """Each reads the others; markup is shown and not run; who is here is seen; the console has no complaint."""
    with chromium.browser(390, 780, dark=True) as window, node.nc("carl") as carl:
        ann, ben = page.named("ann"), Page(window, node).named("ben")
        evil = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
        ann.type("hello from a window")
        ben.shows(".log", "hello from a window")
        ben.type(evil)
        carl.sendall("and from a terminal: grüße\n".encode())
        for one in (ann, ben):
            one.shows(".log", evil)
            one.shows(".log", "and from a terminal: grüße")
            wait_for(lambda one=one: one.text("#people bdi").split() == ["ann", "carl", "ben"], one.text("#people"))
            assert one.window.execute_script("return window.hacked") is None
            assert one.complaints() == []
        said = carl.makefile("r", encoding="utf-8")
        while "<ben> " not in (line := said.readline()):
            assert line
        assert line == f"<ben> {evil}\n"
        said.close()


def test_a_node_that_restarts_is_survived(node, page):
    """1001, cleanly; the page says so, tries again, and is who and where it was; what it shows is still there."""
    page.named("ann").type("/join tea", "before")
    page.shows(".log:not([hidden])", "before")
    assert node.sample.stop(signal.SIGTERM) == 0
    wait_for(lambda: page.find("#state").get_attribute("data-state") != "open", "the page notices nothing")
    assert page.find("#state").get_attribute("data-code") == "1001"
    assert page.find("#state").get_attribute("data-clean") == "true"
    assert "Trying again in" in page.text("#banner")
    page.find("#say").send_keys("typed while away")
    node.start()
    page.is_connected()
    assert not page.find("#banner").is_displayed()
    page.shows("#my-name", "ann")
    page.shows("#room", "tea")
    page.type("")
    page.shows(".log:not([hidden])", "typed while away")
    assert "before" in page.text(".log:not([hidden])")
    assert page.complaints() == []


def test_a_message_that_nobody_confirmed_is_not_lost_in_silence(node, page):
    """The node is frozen, then killed: what was sent last is offered again, and sent once the next one is there."""
    page.named("ann")
    node.sample.process.send_signal(signal.SIGSTOP)
    page.type("did you get this?")
    page.shows("#pending", "on its way")
    node.sample.process.kill()
    node.sample.process.wait()
    page.shows("#pending", "perhaps not received")
    assert page.find("#state").get_attribute("data-clean") == "false"
    node.start()
    page.is_connected()
    page.find("#pending button").click()
    page.shows(".log", "did you get this?")
    wait_for(lambda: not page.find("#pending").is_displayed(), "it is still pending")
    page.shows("#my-name", "ann")


def test_what_was_not_read_is_marked(node, page):
    """In another room by a count, in this one by a line and a button; looking there takes the mark away."""
    with node.nc("carl") as carl:
        page.named("ann")
        carl.sendall(b"/join tea\n")
        page.shows("#rooms", "tea")
        carl.sendall(b"one\ntwo\n")
        page.shows('[data-room="tea"] .badge', "2")
        assert page.window.title == "(2) #lobby"
        page.find('[data-room="tea"]').click()
        page.shows("#room", "tea")
        wait_for(lambda: page.text("#rooms .badge") == "", "the mark stays")
        carl.sendall(b"".join(b"line %d\n" % number for number in range(60)))
        page.shows(".log:not([hidden])", "line 59")
        page.window.execute_script("document.querySelector('.log:not([hidden])').scrollTop = 0")
        carl.sendall(b"and one more\n")
        page.shows("#jump", "1 new message")
        assert page.window.title == "(1) #tea"
        page.find("#jump").click()
        wait_for(lambda: not page.find("#jump").is_displayed(), "the button stays")
        assert page.window.title == "#tea"


def test_an_address_is_the_name_of_a_room_or_nothing(node, page):
    """A fragment with more than a name in it makes nobody speak or obey; with a name it leads to the room."""
    with node.nc("carl") as carl:
        page.named("ann")
        for fragment in (
            "#lobby%0AI%20resign%20today%0A/nick%20clown",
            "#tea%0D/quit",
            "#tea%20/quit",
            "#%E2%80%A8a",
            "#%FF",
        ):
            page.window.execute_script("location.hash = arguments[0]", fragment)
        page.window.execute_script("location.hash = 'Tea'")
        page.shows("#room", "tea")
        assert page.window.execute_script("return location.hash") == "#tea"
        page.type("/join lobby", "here I am")
        carl.settimeout(10)
        heard = b""
        while b"<ann> here I am" not in heard:
            heard += carl.recv(4096)
        assert b"resign" not in heard
        assert b"clown" not in heard
        assert page.find("#my-name").text == "ann"


def test_a_page_of_another_site_loses_the_window_that_it_opened(node):
    """So it cannot send that window to another address."""
    with chromium.browser() as window:
        window.get(f"data:text/html,<button onclick=\"opened = window.open('{node.url}')\">read on</button>")
        window.find_element("css selector", "button").click()
        wait_for(lambda: window.execute_script("return opened.closed"), "the other page keeps the window")
        wait_for(lambda: len(window.window_handles) == 2, "no window was opened")
        window.switch_to.window(next(one for one in window.window_handles if one != window.current_window_handle))
        wait_for(lambda: window.find_elements("css selector", "#state[data-state=open]"), "the page does not connect")
        assert window.execute_script("return window.opener") is None


def test_the_page_is_the_same_member_after_its_connection_vanished(node, page):
    """It takes its name over from its own ghost, which is still there for the server, and tells nobody how."""
    page.named("ann").type("/join tea", "before")
    page.shows(".log:not([hidden])", "before")
    for _ in range(3):
        page.window.execute_script("ghost = socket; ghost.close = () => undefined; unanswered();")
        page.is_connected()
        page.shows("#my-name", "ann")
        page.shows("#room", "tea")
        wait_for(lambda: page.window.execute_script("return ghost.readyState") == 3, "the ghost is not ended")
        wait_for(lambda: page.text("#people bdi").split() == ["ann"], page.text("#people"))
    assert page.window.execute_script("return sessionStorage.getItem('chat.claim')") is None
    page.window.refresh()
    page.is_connected()
    page.shows("#my-name", "ann")
    assert page.window.execute_script("return sessionStorage.getItem('chat.claim')") is None
    with chromium.browser() as other:
        assert Page(other, node).named("ben").text("#my-name") == "ben"
    assert page.complaints() == []


def test_who_quits_stays_away_until_they_come_back(page):
    """A normal end is not tried again by itself."""
    page.named("ann").type("/quit")
    wait_for(lambda: page.find("#state").get_attribute("data-state") == "left", "it did not end")
    assert page.find("#state").get_attribute("data-code") == "1000"
    assert page.find("#state").get_attribute("data-clean") == "true"
    page.find("#again").click()
    page.is_connected()
    page.shows("#my-name", "ann")


def test_the_policy_lets_nothing_else_run_or_load(page):
    """Even markup that got in: no script, no style, no picture, no frame, no connection elsewhere."""
    found = page.window.execute_async_script(
        """
        const done = arguments[0], refused = [];
        document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
        const box = document.body.appendChild(document.createElement("div"));
        box.innerHTML = "<img src='/x.png' onerror='hacked = 1'><b style='color: red' onclick='hacked = 1'>b</b>"
            + "<iframe src='/'></iframe><link rel=stylesheet href='/x.css'>";
        const script = document.createElement("script");
        script.textContent = "hacked = 1";
        box.append(script);
        fetch("http://127.0.0.1:1/").catch(() => 0);
        setTimeout(() => done([refused.sort(), window.hacked]), 500);
        """
    )
    refused, hacked = found
    assert hacked is None
    wanted = {"connect-src", "frame-src", "img-src", "script-src-attr", "script-src-elem", "style-src-attr"}
    assert wanted <= set(refused)


def test_on_a_phone_everything_is_reached_by_keyboard(node):
    """The panes open and close with the focus where it belongs; each field and button has a name."""
    with chromium.browser(390, 780) as window:
        page = Page(window, node)
        opener, pane = page.find(".rooms-opener"), page.find("#rooms-pane")
        wait_for(lambda: not pane.is_displayed(), "the drawer is open")
        opener.send_keys("\ue007")
        wait_for(pane.is_displayed, "the drawer does not open")
        assert opener.get_attribute("aria-expanded") == "true"
        assert window.switch_to.active_element.get_attribute("data-room") == "lobby"
        for one in window.find_elements("css selector", "button, input, textarea"):
            if one.is_displayed():
                assert one.accessible_name, one.get_attribute("outerHTML")
        page.find("#join-name").send_keys("tea", "\ue007")
        page.shows("#room", "tea")
        wait_for(lambda: not pane.is_displayed(), "the drawer stays open")
        assert window.switch_to.active_element.get_attribute("id") == "say"
        page.find(".people-opener").send_keys("\ue007")
        wait_for(page.find("#people-pane").is_displayed, "the people are not shown")
        window.switch_to.active_element.send_keys("\ue00c")  # Escape
        wait_for(lambda: not page.find("#people-pane").is_displayed(), "the people stay")
        assert window.switch_to.active_element.get_attribute("data-opens") == "people-pane"
        assert window.execute_script("return document.documentElement.scrollWidth <= innerWidth")
