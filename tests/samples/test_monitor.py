"""The live monitor: what it knows of each connection, whom it tells, and that it never gets in the way."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("h11")
pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from reactor import Reactor
from reactor.lifecycle import Input, Output
from reactor.trace import Record
from samples import echo
from samples.monitor import attach
from samples.monitor.command import NoTable, main, table
from samples.monitor.lanes import BURST, MOST_ENDED, MOST_LANES, RING, SECONDS_AFTER_END, Lanes
from samples.monitor.pulse import BUCKETS, Histogram
from samples.monitor.server import _MOST_PAGES
from samples.monitor.teach import MOST_BYTES, MOST_PEERS
from tests.helpers import PATIENCE, Peer, Recorder, Server, turn_until
from tests.samples.processes import read_to_end

# Lanes: records in, facts out


def lanes_of(*happenings, name="#1"):
    """Lanes that saw these: `what`, or `(what, count)`, one each second."""
    lanes = Lanes(lambda name: None)
    for second, happening in enumerate(happenings):
        what, count = happening if isinstance(happening, tuple) else (happening, None)
        lanes.observe(Record(float(second), name, what, count))
    return lanes


def words(lane):
    return [(event.what, event.count, event.times) for event in lane.events]


def test_a_lane_keeps_the_events_of_a_life():
    """Each record is one event, in order, and the end is known."""
    lane = lanes_of("accepted", "connection_made", ("received", 5), "peer FIN", "our FIN", "closed").get("#1")
    assert [event.what for event in lane.events] == [
        "accepted",
        "connection_made",
        "received",
        "peer FIN",
        "our FIN",
        "closed",
    ]
    assert (lane.began, lane.ended, lane.records) == (0.0, 5.0, 6)
    assert lane.facts()["state"] == "CLOSED"


def test_a_burst_of_traffic_is_summed_up():
    """After so many records without another event, one event for each kind takes the rest."""
    lane = lanes_of("accepted", *[("received", 10), ("sent", 3)] * 100, "peer FIN", ("sent", 1)).get("#1")
    assert words(lane)[0] == ("accepted", None, 1)
    assert words(lane)[1 : BURST + 1] == [("received", 10, 1), ("sent", 3, 1)] * (BURST // 2)
    alone = BURST // 2
    assert words(lane)[BURST + 1 :] == [
        ("received", 10 * (100 - alone), 100 - alone),
        ("sent", 3 * (100 - alone), 100 - alone),
        ("peer FIN", None, 1),
        ("sent", 1, 1),
    ]
    assert lane.events[BURST + 1].until > lane.events[BURST + 1].time


def test_each_burst_has_its_own_sums():
    """What comes after another event is not added to what came before it."""
    burst = [("received", 10)] * (BURST + 2)
    lane = lanes_of("accepted", *burst, "pause_writing", *burst).get("#1")
    assert words(lane).count(("received", 10, 1)) == 2 * BURST
    assert words(lane).count(("received", 20, 2)) == 2


def test_the_ring_is_bounded():
    """The last events are kept, and how many there were is known."""
    lane = lanes_of("accepted", *["pause_writing", "resume_writing"] * RING).get("#1")
    assert len(lane.events) == RING
    assert lane.records == 1 + 2 * RING
    assert lane.events[-1].what == "resume_writing"


def test_an_ended_lane_stays_for_a_while():
    """And is dropped when its time is over, not earlier."""
    lanes = lanes_of("accepted", "closed")
    lanes.sweep(1.0 + SECONDS_AFTER_END - 0.1)
    assert lanes.get("#1")
    lanes.sweep(1.0 + SECONDS_AFTER_END)
    assert lanes.get("#1") is None


def test_a_storm_of_ends_is_bounded():
    """The oldest ended lanes go first, and every connection is counted."""
    lanes = Lanes(lambda name: None)
    for number in range(3 * MOST_LANES):
        lanes.observe(Record(0.0, f"#{number}", "accepted"))
        lanes.observe(Record(0.0, f"#{number}", "closed"))
    assert len(lanes) == MOST_LANES
    lanes.sweep(0.0)
    assert [lane.name for lane in lanes] == [f"#{n}" for n in range(3 * MOST_LANES - MOST_ENDED, 3 * MOST_LANES)]
    assert lanes.begun == 3 * MOST_LANES


def test_too_many_connections_have_no_lane_and_are_counted(monkeypatch):
    """And get one when there is room again."""
    monkeypatch.setattr("samples.monitor.lanes.MOST_LANES", 2)
    with Reactor() as reactor:
        server = Server(reactor)
        lanes = Lanes(lambda name: None)
        connected = [server.connected() for _ in range(3)]
        try:
            assert lanes.adopt(reactor.connections, 7.0) == 1
            assert len(lanes) == 2
            connected[0][0].reset()
            turn_until(reactor, lambda: connected[0][1].ended)
            lanes.sweep(8.0)
            assert lanes.get("#1").ended == 8.0
            assert lanes.get("#1").facts()["how"] == "failed"
            lanes.observe(Record(9.0, "#9", "accepted"))  # takes the place of the one that has ended
            assert [lane.name for lane in lanes] == ["#2", "#9"]
        finally:
            for peer, _ in connected:
                peer.close()


def test_bytes_of_all_connections_are_counted():
    """Also of those that have ended."""
    assert lanes_of("accepted", ("received", 5), ("sent", 3), ("discarded", 2), ("received", 5), "closed").bytes == {
        "received": 10,
        "sent": 3,
        "discarded": 2,
    }


def test_a_histogram_counts_up_to_each_bound():
    """As Prometheus has it: cumulative, the bound included, `+Inf` last."""
    histogram = Histogram()
    for seconds in (0.0, BUCKETS[0], 0.02, 1000.0):
        histogram.add(seconds)
    counts = dict(histogram.cumulative())
    assert (counts["0.0001"], counts["0.01"], counts["0.05"], counts["5.0"], counts["+Inf"]) == (2, 2, 3, 3, 4)
    assert histogram.total == pytest.approx(1000.0201)


# The site


class Looker:
    """Somebody who asks the monitor for things, over raw sockets."""

    def __init__(self, reactor: Reactor, teach: bool = False) -> None:
        self.reactor = reactor
        self.listener = attach(reactor, 0, teach=teach)
        self.port = self.listener.addresses[0][1]
        self.host = f"127.0.0.1:{self.port}"

    def request(self, head: str, *fields: str, body: bytes = b"", receive_buffer: int | None = None) -> Peer:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", self.port))
        peer = Peer(sock, self.reactor)
        named = any(field.lower().startswith("host:") for field in fields)
        lines = [f"{head} HTTP/1.1", *([] if named else [f"Host: {self.host}"]), *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        peer.send("\r\n".join([*lines, "", ""]).encode() + body)
        return peer

    def ask(self, head: str, *fields: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Status, fields, content."""
        with self.request(head, *fields, body=body) as peer:
            assert peer.read_to_end() == "EOF"
            return answer_of(bytes(peer.data))

    def json(self, path: str):
        status, fields, content = self.ask(f"GET {path}")
        assert (status, fields["content-type"]) == (200, "application/json")
        return json.loads(content)

    def lane(self, name: str):
        return self.json(f"/connections/{name.removeprefix('#')}")


class Page:
    """An open stream of news."""

    def __init__(self, looker: Looker) -> None:
        self.peer = looker.request("GET /events")
        self.taken = 0

    def news(self, count: int = 1) -> list[dict]:
        """The next so many."""
        while len(found := self._all()) < self.taken + count:
            before = len(self.peer.data)
            turn_until(self.peer.reactor, lambda: self.peer.read_some() or self.peer.ending)
            assert len(self.peer.data) > before, "the stream has ended"
        self.taken += count
        return found[self.taken - count : self.taken]

    def until(self, condition) -> dict:
        """The first news of which it holds."""
        while not condition(told := self.news()[0]):
            pass
        return told

    def _all(self) -> list[dict]:
        return [json.loads(data) for data in re.findall(rb"event: news\ndata: (.*)\n\n", bytes(self.peer.data))]

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.peer.close()


def answer_of(data: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, content = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert int(fields.get("content-length", len(content))) == len(content)
    return int(status.split()[1]), fields, content


# Shorter than people need: so long each look takes here.
BEAT = 0.02


@pytest.fixture(autouse=True)
def short_beats(monkeypatch):
    monkeypatch.setattr("samples.monitor.monitor.TICK", BEAT)


@pytest.fixture
def reactor(no_descriptor_left):
    with Reactor() as made:
        yield made


@pytest.fixture
def looker(reactor):
    """Of a program that waits for something else as well, and so would not end."""
    ours, theirs = socket.socketpair()
    reactor.add_reader(ours, ours.recv, 1)
    with ours, theirs:
        yield Looker(reactor)
        reactor.remove_reader(ours)


def test_the_page_may_load_nothing_foreign(looker):
    """Its policy names the digests of its one script and style, and it refers to no other place."""
    status, fields, content = looker.ask("GET /")
    page = content.decode()
    assert (status, fields["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().split(" ", 1) for part in fields["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        (inline,) = re.findall(f"<{element}[^>]*>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert set(re.findall(r"https?://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", page)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9000"])
def test_names_of_this_machine_may_ask(looker, host):
    """With any port, for the near end of a tunnel may have another."""
    assert looker.ask("GET /connections", f"Host: {host}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "127.0.0.1:", ""]
)
def test_a_foreign_name_is_refused(looker, host):
    """A name that was made to point here (DNS rebinding) gets nothing."""
    status, _, content = looker.ask("GET /connections", f"Host: {host}")
    assert status == 421
    assert b"connections" not in content


@pytest.mark.parametrize("path", ["/events", "/connections", "/connections/1", "/metrics"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_not_look(looker, path, site):
    """What a browser asks for on behalf of another page is refused; a link to the page may be followed."""
    assert looker.ask(f"GET {path}", f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: no-cors")[0] == 403
    assert looker.ask("GET /", f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: navigate")[0] == 200


def test_what_is_not_there_is_answered(looker):
    """404 and 405, each ending the connection; and HEAD as GET."""
    assert looker.ask("GET /nothing")[0] == 404
    assert looker.ask("GET /connections/99")[0] == 404
    assert looker.ask("GET /connections/x%00")[0] == 404
    assert looker.ask("GET /teach")[0] == 404
    status, fields, content = looker.ask("GET /metrics?x=1")
    assert (status, fields["connection"]) == (200, "close")
    assert content
    with looker.request("HEAD /connections") as peer:
        assert peer.read_to_end() == "EOF"
        assert peer.data.startswith(b"HTTP/1.1 200")
        assert peer.data.endswith(b"\r\n\r\n")


def test_a_connection_ends_on_the_page_as_closed(reactor, looker):
    """Open, half-closed, closed: each is told, with the report at the end."""
    server = Server(reactor, lambda: Recorder(keep_open=True))
    with Page(looker) as page:
        assert page.news()[0]["full"]["addresses"] == [f"127.0.0.1:{server.address[1]}"]
        peer, protocol = server.connected()
        with peer:
            name = f"#{protocol.connection.number}"

            def lane_of(told):
                return next((one for one in told["changed"] if one["name"] == name), {})

            opened = lane_of(page.until(lane_of))
            assert (opened["state"], opened["input"], opened["output"]) == ("OPEN", "deliver", "accept")
            assert (opened["high"], opened["queued"]) == (65536, 0)
            peer.send(b"hello")
            peer.fin()
            half = lane_of(page.until(lambda told: lane_of(told).get("state") == "PEER_END"))
            assert (half["input"], half["output"], half["received"]) == ("stop", "accept", 5)
            assert half["tcp_state"] in ("CLOSE-WAIT", None)
            protocol.connection.write(b"bye")
            protocol.connection.close()
            peer.read_to_end()
            closed = page.until(lambda told: lane_of(told).get("ended"))
        assert (lane_of(closed)["how"], lane_of(closed)["written"]) == ("in order", 3)
        assert closed["totals"] == {"living": 0, "in_order": 1, "lost": 0, "received": 5, "sent": 3}
    story = [event["what"] for event in looker.lane(name)["events"]]
    assert story[0] == "accepted"
    assert story[-1] == "connection_lost"
    assert {"peer FIN", "our FIN", "eof_received"} < set(story)


def test_nothing_new_is_not_told_twice(reactor, looker):
    """A lane that has not changed is in no news but the first."""
    server = Server(reactor)
    peer, _ = server.connected()
    with peer, Page(looker) as page:
        first, *rest = page.news(4)
        assert len(first["changed"]) == 1
        assert [told["changed"] for told in rest] == [[], [], []]
        assert all("full" not in told for told in rest)


def test_a_dropped_lane_is_told(reactor, looker, monkeypatch):
    """So that the page drops it, too."""
    monkeypatch.setattr("samples.monitor.lanes.SECONDS_AFTER_END", 0.0)
    server = Server(reactor)
    with Page(looker) as page:
        page.news()
        peer, protocol = server.connected()
        name = f"#{protocol.connection.number}"
        page.until(lambda told: told["changed"])
        peer.reset()
        page.until(lambda told: told["gone"] == [name])


def test_the_monitor_does_not_show_itself(reactor, looker):
    """Its own connections are in no table, no total and no metric."""
    with Page(looker) as page:
        page.news()
        assert looker.json("/connections")["connections"] == []
        told = page.until(lambda told: not told["changed"])
        assert told["totals"] == {"living": 0, "in_order": 0, "lost": 0, "received": 0, "sent": 0}
        samples = metrics_of(looker)
        assert samples["reactor_connections_begun_total", ()] == 0
        assert samples["reactor_listeners", ()] == 0


def test_a_connection_from_before_is_shown_as_it_is(reactor):
    """Its state and its end, though not its story."""
    server = Server(reactor)
    peer, protocol = server.connected()
    looker = Looker(reactor)
    with peer:
        peer.send(b"hello")
        turn_until(reactor, lambda: protocol.data)
        (lane,) = looker.json("/connections")["connections"]
        assert (lane["origin"], lane["state"], lane["received"]) == ("seen later", "OPEN", 5)
        peer.fin()
        turn_until(reactor, lambda: protocol.ended)
    turn_until(reactor, lambda: looker.lane("#1")["ended"])
    lane = looker.lane("#1")
    assert (lane["how"], lane["events"]) == ("in order", [])


def test_a_page_that_does_not_read_gets_everything_later(reactor, monkeypatch):
    """Nothing piles up for it, and afterwards it knows as much as the others."""
    monkeypatch.setattr("samples.monitor.server._PAGE_QUEUE_BYTES", 2000)
    looker, server = Looker(reactor), Server(reactor)
    with looker.request("GET /events", receive_buffer=4096) as page:
        turn_until(reactor, lambda: reactor.connections)
        (own,) = reactor.connections
        own.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        turn_until(reactor, lambda: own.get_write_buffer_size() > 2000)
        waiting = own.get_write_buffer_size()
        with server.connected()[0], server.connected()[0]:
            later = reactor.time() + 10 * BEAT
            turn_until(reactor, lambda: reactor.time() > later)
            assert own.get_write_buffer_size() <= waiting
            everything = re.compile(rb'event: news\ndata: (.*"full":.*)\n\n')
            turn_until(reactor, lambda: page.read_some() and len(everything.findall(page.data)) == 2)
            assert len(json.loads(everything.findall(page.data)[-1])["changed"]) == 2


def test_so_many_pages_and_no_more(reactor, looker):
    """The next one is asked to come back."""
    pages = [Page(looker) for _ in range(_MOST_PAGES)]
    try:
        for page in pages:
            page.news()
        status, fields, _ = looker.ask("GET /events")
        assert (status, fields["retry-after"]) == (503, "10")
        pages[0].peer.close()
        turn_until(reactor, lambda: looker.listener.connections < _MOST_PAGES)
        pages[0] = Page(looker)
        pages[0].news()
    finally:
        for page in pages:
            page.peer.close()


def test_rubbish_is_survived(reactor, looker):
    """Whatever comes to its port, the monitor goes on."""
    for rubbish in (b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b""):
        with Peer(socket.create_connection(("127.0.0.1", looker.port)), reactor) as peer:
            peer.send(rubbish) if rubbish else None
            peer.fin()
            peer.read_to_end()
    assert looker.json("/connections")["connections"] == []


def test_a_port_that_is_taken_is_told(reactor, looker):
    """As by `listen`."""
    with pytest.raises(OSError, match=str(looker.port)):
        attach(reactor, looker.port)


# Metrics and the loop


def metrics_of(looker: Looker) -> dict[tuple[str, tuple[str, ...]], float]:
    status, fields, content = looker.ask("GET /metrics")
    assert (status, fields["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = list(text_string_to_metric_families(content.decode()))
    assert all(family.documentation for family in families)
    assert all(family.type in ("counter", "gauge", "histogram") for family in families)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_prometheus_reads_the_metrics(reactor, looker):
    """Every number is the sample's own."""
    server = Server(reactor)
    first, one = server.connected()
    second, other = server.connected()
    with first, second:
        first.send(b"hello")
        one.connection.write(b"four")
        turn_until(reactor, lambda: one.data)
        first.fin()
        turn_until(reactor, lambda: one.ended)
        other.connection.pause_reading()
        samples = metrics_of(looker)
    assert samples["reactor_connections", ("OPEN",)] == 1
    assert samples["reactor_connections", ("LINGER",)] == 0
    assert samples["reactor_connections_begun_total", ()] == 2
    assert samples["reactor_connections_ended_total", ("in order",)] == 1
    assert samples["reactor_connections_ended_total", ("lost",)] == 0
    assert samples["reactor_received_bytes_total", ()] == 5
    assert samples["reactor_sent_bytes_total", ()] == 4
    assert samples["reactor_listeners", ()] == 1
    assert samples["reactor_timers", ()] == 1  # the deadline of our own request
    assert 0 < samples["reactor_turn_seconds_count", ()] <= samples["reactor_turns_total", ()]
    assert samples["reactor_turn_seconds_bucket", ("+Inf",)] == samples["reactor_turn_seconds_count", ()]


def test_a_slow_call_is_named(reactor, looker):
    """With its connection, its callback and its time."""

    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            time.sleep(0.03)
            self.connection.write(data)

    server = Server(reactor, Slow)
    with Page(looker) as page:
        page.news()
        peer, protocol = server.connected()
        with peer:
            peer.send(b"x")
            told = page.until(lambda told: any(call["seconds"] >= 0.03 for call in told["slow"]))
            peer.read_until(1)
        turn_until(reactor, lambda: protocol.ended)
        later = page.until(lambda told: told["totals"]["in_order"])
        page.news(2)
    (call,) = [call for call in told["slow"] if call["what"].startswith(f"<Connection #{protocol.connection.number} ")]
    assert call["callback"] == "data_received"
    assert call["seconds"] >= 0.03
    assert later["pulse"]["slow_calls"] >= 1
    assert metrics_of(looker)["reactor_slow_calls_total", ()] >= 1


def test_a_slow_timer_makes_the_others_late(reactor, looker):
    """It is named, and how late the next one comes is measured."""
    with Page(looker) as page:
        page.news()
        reactor.call_later(0.01, time.sleep, 0.05)
        told = page.until(lambda told: any("sleep" in call["what"] for call in told["slow"]))
        assert told["pulse"]["sample"]["late"] > 0.01
        assert told["pulse"]["sample"]["longest"] >= 0.05


def test_a_slow_look_is_not_the_samples(reactor, looker, monkeypatch):
    """A call of the monitor's own connection is not among the slow ones."""
    monkeypatch.setattr("samples.monitor.metrics.metrics", lambda monitor: time.sleep(0.03) or b"")
    with Page(looker) as page:
        page.news()
        assert looker.ask("GET /metrics")[0] == 200
        slow = [call["what"] for told in page.news(3) for call in told["slow"]]
    assert [what for what in slow if what.startswith("<Connection")] == []


def test_timers_that_wait_are_named(reactor, looker):
    """The next ones, in order; the monitor's heartbeat is not among them."""
    with Page(looker) as page:
        page.news()
        reactor.call_later(70.0, print)
        reactor.call_later(60.0, len)
        pulse = page.until(lambda told: told["pulse"]["timers"])["pulse"]
    assert [timer["what"] for timer in pulse["upcoming"]] == ["<TimerHandle len>", "<TimerHandle print>"]
    assert 50 < pulse["upcoming"][0]["due_in"] <= 60


# A guest


# A page is told why its stream ends, and sees that it is complete.
LAST_WORDS = b"event: drained\ndata:\n\n\r\n0\r\n\r\n"


class Browser:
    """A page whose stream is read in a thread to its end, and then closed, while the reactor runs."""

    def __init__(self, looker: Looker, silent: bool = False) -> None:
        if silent:
            self.sock = socket.create_connection(("127.0.0.1", looker.port))
        else:
            page = Page(looker)
            page.news()
            self.sock = page.peer.sock
        self.data = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        self.sock.settimeout(PATIENCE)
        self.data = read_to_end(self.sock)
        self.sock.close()

    def left(self) -> bytes:
        """The end of what it read, once that has ended."""
        self._thread.join()
        return self.data[-len(LAST_WORDS) :]


def test_a_drain_ends_the_pages_in_order(reactor):
    """At once: the stream is complete, then comes a FIN, and nothing was lost."""
    looker = Looker(reactor)
    Server(reactor)
    browser = Browser(looker)
    summary = reactor.drain(10)
    assert browser.left() == LAST_WORDS
    assert summary.clean


def test_a_client_program_ends_although_it_is_monitored(reactor):
    """`run()` returns when only the monitor is left, whose page sees an end in order."""
    looker = Looker(reactor)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = Recorder()
        reactor.connect(lambda: client, "127.0.0.1", listening.getsockname()[1])
        browser = Browser(looker)
        served, _ = listening.accept()
        served.close()
        reactor.run()
    assert client.lost is None
    assert browser.left() == LAST_WORDS
    assert looker.listener.is_closing()
    assert reactor.totals.lost == 0


def test_a_silent_visitor_keeps_nobody_waiting(reactor, monkeypatch):
    """Somebody who is connected to the monitor and asks nothing is ended in order as well."""
    monkeypatch.setattr("samples.web.connection._LET_IN_SECONDS", BEAT)
    looker = Looker(reactor)
    reactor.call_later(5 * BEAT, len, ())
    visitor = Browser(looker, silent=True)
    began = reactor.time()
    reactor.run()
    assert reactor.time() - began < 5  # sooner than its request would be given up
    assert visitor.left() == b""
    assert reactor.totals.ended_in_order == 1


@pytest.mark.parametrize("looked_at", [False, True])
def test_who_waits_for_a_timer_is_still_monitored(reactor, looked_at):
    """As long as `run()` would go on without a monitor, there is one."""
    looker = Looker(reactor)
    browser = Browser(looker) if looked_at else None
    closing = []
    reactor.call_later(5 * BEAT, lambda: closing.append(looker.listener.is_closing()))
    reactor.run()
    assert closing == [False]
    assert browser is None or browser.left() == LAST_WORDS
    assert looker.listener.is_closing()


# Scripted peers


class Class(Looker):
    """A class in front of an echo server: gives orders as the page does."""

    def __init__(self, reactor: Reactor, **where) -> None:
        super().__init__(reactor, teach=True)
        self.echo = echo.serve(reactor, **(where or {"host": "127.0.0.1", "port": 0}))
        self.page = Page(self)
        self.told = self.page.news()[0]
        self.token = self.told["full"]["token"]
        self.peers: dict[int, dict] = {}

    def order(self, order, *, status=200, **details):
        body = json.dumps({"order": order, **details}).encode()
        fields = (f"Origin: http://{self.host}", f"X-Monitor-Token: {self.token}", "Content-Type: application/json")
        got, _, content = self.ask("POST /teach", *fields, body=body)
        assert got == status, content
        return json.loads(content)

    def connect(self) -> int:
        number = self.order("connect")["number"]
        self.peer(number, lambda peer: "is connected" in peer["log"][-1][1])
        return number

    def peer(self, number: int, condition=bool) -> dict:
        """What the page shows of that peer, once the condition holds."""

        def holds() -> bool:
            return number in self.peers and condition(self.peers[number])

        while not holds():
            self.peers |= {peer["number"]: peer for peer in self.page.news()[0].get("peers", ())}
        return self.peers[number]

    def lane_of(self, number: int, condition=bool) -> dict:
        """The sample's side of it, once the condition holds."""
        name = self.peer(number)["name"]
        found: dict = {}

        def holds() -> bool:
            nonlocal found
            found = next(one for one in self.json("/connections")["connections"] if one["peer"] == name)
            return condition(found)

        turn_until(self.reactor, holds)
        return found


@pytest.fixture
def school(reactor):
    made = Class(reactor)
    with made.page:
        yield made
    reactor.drain(5)  # the peers go


def test_a_peer_speaks_only_when_told(school):
    """What it sends comes back, and both FINs end it in order on both sides."""
    number = school.connect()
    assert school.lane_of(number)["received"] == 0
    school.order("send", peer=number, text="hello\n")
    assert school.peer(number, lambda peer: peer["received"])["received"] == 6
    school.order("fin", peer=number)
    assert school.peer(number, lambda peer: peer["ending"])["ending"] == "closed in order: both FINs were seen"
    assert school.lane_of(number, lambda lane: lane["ended"])["how"] == "in order"


def test_a_close_with_unread_data_resets(school):
    """What the class came for: close() with six bytes unread is a reset, seen from the other side."""
    number = school.connect()
    school.order("stop reading", peer=number)
    school.order("send", peer=number, text="hello\n")
    school.peer(number, lambda peer: peer["unread"] == 6)
    assert "the kernel resets" in school.order("close", peer=number)["ending"]
    lane = school.lane_of(number, lambda lane: lane["ended"])
    assert lane["how"] == "failed"
    assert lane["reason"].startswith("ConnectionResetError")
    assert "error" in [event["what"] for event in school.lane(lane["name"])["events"]]


def test_a_close_with_everything_read_does_not_reset(school):
    """The same close(), with nothing unread: a FIN."""
    number = school.connect()
    school.order("send", peer=number, text="hello\n")
    school.peer(number, lambda peer: peer["received"] == 6)
    assert school.order("close", peer=number)["ending"] == "closed"
    assert school.lane_of(number, lambda lane: lane["ended"])["how"] == "in order"


def test_late_bytes_after_our_close_do_no_harm(school):
    """They are discarded and counted; both sides end in order."""
    number = school.connect()
    school.order("ask us to end", peer=number)
    school.peer(number, lambda peer: peer["peer_ended"])
    school.order("send", peer=number, text="but wait\n")
    assert school.lane_of(number, lambda lane: lane["discarded"])["state"] == "LINGER"
    school.order("fin", peer=number)
    lane = school.lane_of(number, lambda lane: lane["ended"])
    assert (lane["how"], lane["discarded"]) == ("in order", 9)
    assert "closed in order" in school.peer(number, lambda peer: peer["ending"])["ending"]


def test_a_reset_on_purpose(school):
    """Is seen as one."""
    number = school.connect()
    school.order("reset", peer=number)
    assert school.lane_of(number, lambda lane: lane["ended"])["reason"].startswith("ConnectionResetError")


def test_a_peer_that_does_not_read_fills_our_queue(school):
    """Above the high watermark the echo stops reading; when the peer reads again, every byte comes back."""
    number = school.connect()
    school.order("stop reading", peer=number)
    school.order("send", peer=number, size=MOST_BYTES)
    lane = school.lane_of(number, lambda lane: lane["queued"] > lane["high"] and not lane["reading"])
    assert lane["state"] == "OPEN"
    school.order("fin", peer=number)
    school.order("read", peer=number)
    turn_until(school.reactor, lambda: school.echo.connections == 0)
    assert school.peer(number, lambda peer: peer["ending"])["received"] == MOST_BYTES


def test_what_a_peer_cannot_do_is_told(school):
    """In words, and nothing happens."""
    assert "no such peer" in school.order("fin", peer=7, status=400)["error"]
    number = school.connect()
    for order, details, why in (
        ("dance", {}, "an order is connect"),
        ("send", {}, "1 to"),
        ("send", {"size": MOST_BYTES + 1}, "1 to"),
        ("send", {"size": -1}, "whole number"),
        ("send", {"text": 7}, "string"),
    ):
        assert why in school.order(order, peer=number, status=400, **details)["error"]
    assert "nobody listens" in school.order("connect", address="192.0.2.1:80", status=400)["error"]
    assert "nobody listens" in school.order("connect", address=school.host, status=400)["error"]
    school.order("fin", peer=number)
    assert "FIN" in school.order("send", peer=number, text="x", status=400)["error"]
    school.peer(number, lambda peer: peer["ending"])
    assert "gone" in school.order("read", peer=number, status=400)["error"]


def test_peers_are_not_many(school):
    """A new one takes the place of one that is gone, and of no other."""
    numbers = [school.connect() for _ in range(MOST_PEERS)]
    assert "close one first" in school.order("connect", status=400)["error"]
    school.order("close", peer=numbers[3])
    assert school.connect() == MOST_PEERS + 1
    assert "no such peer" in school.order("fin", peer=numbers[3], status=400)["error"]


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Origin: http://evil.example",),
        ("Origin: null",),
        ("Origin: http://{host}",),
        ("Origin: http://{host}", "X-Monitor-Token: guessed"),
        ("X-Monitor-Token: {token}",),
        ("Origin: http://localhost:1", "X-Monitor-Token: {token}"),
        ("Origin: http://{host}", "X-Monitor-Token: {token}", "Sec-Fetch-Site: cross-site"),
    ],
)
def test_orders_come_from_the_page_alone(school, fields):
    """Without its origin and its token nothing happens."""
    filled = [field.format(host=school.host, token=school.token) for field in fields]
    assert school.ask("POST /teach", *filled, body=b'{"order": "connect"}')[0] == 403
    assert school.echo.connections == 0


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"7", b"\xff", b"[" * 10000, b'{"peer": []}', b'{"order": {}, "peer": 1}']
)
def test_an_order_that_is_none_is_refused(school, body):
    """With 400, whatever it is."""
    fields = (f"Origin: http://{school.host}", f"X-Monitor-Token: {school.token}")
    assert school.ask("POST /teach", *fields, body=body)[0] == 400


def test_without_teach_there_are_no_orders(looker):
    """Neither a token nor a place to send them."""
    with Page(looker) as page:
        assert page.news()[0]["full"]["token"] is None
    assert looker.ask("POST /teach", f"Origin: http://{looker.host}", "X-Monitor-Token: None", body=b"{}")[0] == 403


def test_peers_of_a_unix_socket(reactor, tmp_path):
    """They have names of their own, by which their connection is found."""
    school = Class(reactor, path=tmp_path / "echo")
    with school.page:
        first, second = school.connect(), school.connect()
        school.order("ask us to end", peer=second)
        school.peer(second, lambda peer: peer["peer_ended"])
        assert not school.peer(first)["peer_ended"]
        school.order("fin", peer=second)
        assert school.lane_of(second, lambda lane: lane["ended"])["how"] == "in order"
    reactor.drain(5)


def test_a_drain_ends_the_lesson(school):
    """Peers go when the reactor drains, so that nobody waits for them."""
    school.order("stop reading", peer=school.connect())
    before = len(school.reactor.connections)
    school.page.peer.close()  # with its stream unread, so it is lost, and before the drain
    turn_until(school.reactor, lambda: len(school.reactor.connections) < before)
    summary = school.reactor.drain(10)
    assert summary.clean


def test_a_closed_reactor_leaves_no_peer_open():
    """Not even one that nobody had told to go."""
    with Reactor() as reactor:
        school = Class(reactor)
        number = school.connect()
        school.order("stop reading", peer=number)
        school.page.peer.close()
    del school, reactor
    gc.collect()  # a warning for a socket left open would be an error


# ps


def test_ps_shows_the_table(reactor, looker, run):
    """One line for each connection, in a process of its own."""
    server = Server(reactor)
    peer, protocol = server.connected()
    with peer:
        peer.send(b"x" * 5000)
        turn_until(reactor, lambda: len(protocol.data) == 5000)
        name = "{}:{}".format(*peer.sock.getsockname())
        ps = run("monitor", "ps", f":{looker.port}")
        turn_until(reactor, lambda: ps.process.poll() is not None)
        assert (ps.ended(), ps.errors) == (0, "")
    heading, line, summary = ps.output.decode().splitlines()
    assert " ".join(heading.split()) == "# PEER STATE KERNEL IN OUT QUEUE RECEIVED WRITTEN ACKED AGE END"
    number, address, state, _, *words, _ = line.split()
    assert (number, address) == (str(protocol.connection.number), name)
    assert (state, words) == ("OPEN", ["deliver", "accept", "0", "4.9K", "0", "0"])
    assert summary == f"1 living, listening on 127.0.0.1:{server.address[1]}"


ROW = {
    "name": "#7",
    "peer": "10.0.0.1:5",
    "state": "CLOSED",
    "tcp_state": None,
    "input": "stop",
    "output": "stop",
    "reading": False,
    "queued": None,
    "received": 3 * 1024 * 1024,
    "written": 999,
    "acknowledged": None,
    "began": 10.0,
    "ended": 100.5,
    "how": "failed",
    "reason": "ConnectionResetError: [Errno 104]",
}
TOLD = {"now": 200.0, "addresses": ["127.0.0.1:7000"], "draining": True, "without": 3, "connections": [ROW]}


def test_a_line_of_the_table():
    """Sizes and ages are short, an end has its reason, and what is not listed is counted."""
    _, line, summary, more = table(TOLD)
    assert (
        " ".join(line.split()) == "7 10.0.0.1:5 CLOSED - stop stop - 3.0M 999 - 1m30s ConnectionResetError: [Errno 104]"
    )
    assert summary == "3 living, listening on 127.0.0.1:7000; draining"
    assert more == "3 more are counted and not listed"
    assert len(table(TOLD, living=True)) == 3


def test_nothing_from_the_network_controls_the_terminal():
    """Neither a peer's name nor a reason."""
    lines = table({**TOLD, "connections": [{**ROW, "peer": "/tmp/\x1b[2J", "reason": "\x9b2J\r\n"}]})
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "told", [{}, {**TOLD, "connections": [{}]}, {**TOLD, "connections": [7]}, {**TOLD, "without": None}]
)
def test_a_table_that_is_none_is_told(told):
    """In words, not with a traceback."""
    with pytest.raises(NoTable, match="no table of a monitor's"):
        table(told)


def test_ps_tells_when_nobody_answers(capsys):
    """One line on stderr, status 1."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert main(["ps", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err == f"python -m samples.monitor ps: 127.0.0.1:{port}: Connection refused\n"


def test_ps_tells_when_no_host_can_have_that_name(capsys):
    """A label has at most 63 letters: one line on stderr, status 1."""
    assert main(["ps", "a" * 64 + ":8090"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"python -m samples.monitor ps: {'a' * 64}:8090: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"* welcome to the chat\n", "does not speak HTTP"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "is no monitor: it answered 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "is no monitor: it answered 200"),
        (b'HTTP/1.1 500 Oh\r\nContent-Length: 18\r\n\r\n{"connections":[]}', "is no monitor: it answered 500"),
        (b"", "does not speak HTTP"),
    ],
)
def test_ps_tells_when_it_is_no_monitor(capsys, answer, why):
    """Whoever else may answer there."""

    def serve() -> None:
        served, _ = listening.accept()
        with served:
            served.recv(65536)
            served.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        assert main(["ps", f":{listening.getsockname()[1]}"]) == 1
        thread.join()
    errors = capsys.readouterr().err
    assert why in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["ps"], ["ps", "nowhere"], ["ps", ":0"], ["ps", ":80", "--watch", "0"], ["ps", ":80", "--watch", "x"]]
)
def test_unusable_arguments_are_refused(capsys, arguments):
    """In one line, with status 2."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_is_shown(capsys, arguments):
    """Also to who asks for nothing."""
    assert main(arguments) == 0
    assert "python -m samples.monitor ps 127.0.0.1:8090" in capsys.readouterr().out


def test_watching_ends_with_an_interrupt(reactor, looker, run):
    """The table comes again and again; Ctrl-C is how it ends, with status 0."""
    watching = run("monitor", "ps", f"127.0.0.1:{looker.port}", "--watch", "0.1")
    os.set_blocking(watching.process.stdout.fileno(), False)
    shown = bytearray()
    turn_until(reactor, lambda: shown.extend(watching.process.stdout.read() or b"") or shown.count(b"living") >= 2)
    os.set_blocking(watching.process.stdout.fileno(), True)
    assert watching.stop(signal.SIGINT) == 0
    assert watching.errors == ""


def test_the_page_knows_every_word_of_the_lifecycle():
    """A word without a name on the page would stop the lane of every connection that comes to it."""
    page = Path(echo.__file__).with_name("monitor").joinpath("page.html").read_text(encoding="utf-8")
    for name, words in (("IN", Input), ("OUT", Output)):
        table = page.partition(f"const {name} = {{")[2].partition("};")[0]
        assert re.findall(r"(\w+): \[", table) == [word.value for word in words]
