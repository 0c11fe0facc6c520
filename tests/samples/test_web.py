"""HTTP/1.1 on the reactor: what is answered, in which order, and how the connection then ends."""

from __future__ import annotations

import configparser
import logging
import re
import socket
from email.utils import parsedate_to_datetime

import h11
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from reactor import Limits, Options, Protocol, Reactor, Sockets, Watermarks, WriteAfterEnd
from reactor.lifecycle import PEER_END
from reactor.testing import Link, SimulatedSystem
from samples import web
from tests.helpers import Peer, turn_until
from tests.samples.processes import ROOT


@pytest.fixture
def loop(no_descriptor_left):
    with Reactor() as made:
        yield made


class Ticker(web.Stream):
    """A stream that the test drives."""

    def __init__(self):
        super().__init__(200, (("Content-Type", "text/event-stream"),))
        self.told = []

    def opened(self):
        self.told.append("opened")
        self.write(b"first")

    def gone(self):
        self.told.append("gone")


class Place:
    """A site, served, and its raw clients."""

    def __init__(self, reactor, **how):
        self.reactor = reactor
        self.requests = []
        self.streams = []
        self.upgraded = []
        self.site = web.Routes(
            {
                "/": {"GET": self._page, "POST": self._page},
                "/big": {"GET": lambda _: web.Response(content=b"x" * 300_000)},
                "/stream": {"GET": self._stream},
                "/upgrade": {"GET": self._upgrade},
                "/none": {"GET": lambda _: web.Response(204)},
                "/fails": {"GET": lambda _: 1 // 0},
            }
        )
        settings = web.Settings(early=self.site.refusal, **{"body_bytes": 1000, **how.pop("settings", {})})
        self.listener = web.serve(reactor, how.pop("site", self.site), "127.0.0.1", 0, settings=settings, **how)
        self.peers = []

    def _page(self, request):
        self.requests.append(request)
        return web.Response(200, (("Content-Type", "text/plain"),), b"hello " + request.body)

    def _stream(self, _):
        self.streams.append(Ticker())
        return self.streams[-1]

    def _upgrade(self, _):
        self.upgraded.append(Upgraded())
        return web.Upgrade(self.upgraded[-1])

    def peer(self, receive_buffer=None):
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.listener.addresses[0])
        self.peers.append(Peer(sock, self.reactor))
        return self.peers[-1]

    def asked(self, data, receive_buffer=None):
        peer = self.peer(receive_buffer)
        peer.send(data)
        return peer

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for peer in self.peers:
            peer.close()


class Upgraded(Protocol):
    """Speaks something else, in upper case."""

    def connection_made(self, connection):
        super().connection_made(connection)
        connection.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: loud\r\n\r\n")

    def data_received(self, data):
        self.connection.write(data.upper())


@pytest.fixture
def place(loop):
    with Place(loop) as made:
        yield made


def get(path="/", *fields, method="GET", version="1.1", body=b""):
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def answers(data, *methods):
    """What a client makes of the bytes: `(status, fields, content)` for each answer, and whether the server ends."""
    client = h11.Connection(h11.CLIENT)
    found = []
    buffered = bytes(data)
    for method in methods or ("GET",):
        client.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        client.send(h11.EndOfMessage())
        client.receive_data(buffered)
        buffered = b""
        content = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert event not in (h11.NEED_DATA, h11.PAUSED), f"an answer is not whole: {data!r}"
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                content += bytes(event.data)
        found.append((head.status_code, {n.decode(): v.decode() for n, v in head.headers}, content))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
    assert client.trailing_data[0] == b""
    return found


def statuses(peer):
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d+)", bytes(peer.data), re.MULTILINE)]


REFUSED = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a host that is a URL": (b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", 400),
    "a host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a host with a user": (b"GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", 400),
    "two hosts in one field": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "a host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a port in words": (b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400),
    "a port without a host": (b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
    "a bare IPv6 address": (b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400),
    "an address that never ends": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "a host beyond ASCII": (b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    "a broken escape for a host": (b"GET / HTTP/1.1\r\nHost: a%2\r\n\r\n", 400),
    "no host in HTTP/1.2": (b"GET / HTTP/1.2\r\n\r\n", 400),
    "a strange host in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", 400),
    "a strange host beside an absolute target": (b"GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a target with a user": (get("http://me@test/"), 400),
    "a target without its host": (get("http:///"), 400),
    "half an empty line": (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space before the method": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two lengths": (get("/", "Content-Length: 1", "Content-Length: 2", method="POST"), 400),
    "no number for a length": (get("/", "Content-Length: +1", method="POST"), 400),
    "folded name": (b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n", 400),
    "half a head, then FIN": (b"GET / HTTP/1.1\r\nHos", 400),
    "half a body, then FIN": (get("/", "Content-Length: 9", method="POST", body=b"1234"), 400),
    "rubbish for a chunk": (get("/", "Transfer-Encoding: chunked", method="POST", body=b"zz\r\n"), 400),
    "a long announced body": (get("/", "Content-Length: 1001", method="POST"), 413),
    "a long chunked body": (get("/", "Transfer-Encoding: chunked", method="POST", body=b"3e9\r\n" + b"x" * 1001), 413),
    "an endless target": (b"GET /" + b"a" * 20_000, 414),
    "a long target": (get("/" + "a" * 8000), 414),
    "another expectation": (get("/", "Expect: tea"), 417),
    "endless fields": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 4000, 431),
    "one endless field": (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 20_000, 431),
    "many fields at once": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 4000 + b"\r\n", 431),
    "two ends of one body": (
        get("/", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST", body=b"0\r\n\r\n"),
        400,
    ),
    "chunks in HTTP/1.0": (
        get("/", "Transfer-Encoding: chunked", method="POST", version="1.0", body=b"0\r\n\r\n"),
        400,
    ),
    "another transfer coding": (get("/", "Transfer-Encoding: gzip", method="POST"), 501),
    "another version": (b"PRI * HTTP/2.0\r\n\r\n", 505),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_answered_once_and_the_connection_ends(place, what):
    """The status says what; the answer is whole, says `close`, and an EOF follows it, no reset."""
    data, status = REFUSED[what]
    peer = place.asked(data)
    peer.fin()
    assert peer.read_to_end() == "EOF"
    ((found, fields, _),) = answers(peer.data)
    assert found == status
    assert fields["connection"] == "close"
    assert fields["x-content-type-options"] == "nosniff"
    assert place.requests == []


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nowhere", 404, None),
        ("GET", "//", 404, None),
        ("DELETE", "/", 405, "GET, POST, HEAD"),
        ("POST", "/big", 405, "GET, HEAD"),
        ("BREW", "/", 501, None),
    ],
)
def test_what_the_table_lacks_is_refused_and_the_connection_lives(place, method, path, status, allow):
    """Nothing is wrong with the connection, so the next request on it is answered."""
    peer = place.asked(get(path, method=method) + get())
    peer.fin()
    peer.read_to_end()
    first, second = answers(peer.data, method, "GET")
    assert (first[0], first[1].get("allow")) == (status, allow)
    assert (second[0], second[2]) == (200, b"hello ")


@pytest.mark.parametrize(
    "host", ["", "a", "a.b-c:8080", "a:", "127.0.0.1:80", "[::1]", "[fe80::1%25eth0]:80", "[v1.x:y]", "x%20y", "a,b"]
)
def test_every_host_that_rfc_3986_has_is_taken(place, host):
    """A name, an IPv4 or IPv6 address, with or without a port, or nothing."""
    peer = place.asked(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert peer.read_to_end() == "EOF"
    assert statuses(peer) == [200]
    assert place.requests[0].fields["host"] == host


def test_the_host_of_an_absolute_target_counts(place):
    """And not that of the Host field (RFC 9112, 3.2.2)."""
    peer = place.asked(get("http://there:8080/?q", "Connection: close"))
    assert peer.read_to_end() == "EOF"
    (request,) = place.requests
    assert (request.fields["host"], request.authority, request.path) == ("there:8080", "there:8080", "/")


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\r\n\n"])
@pytest.mark.parametrize("cut", [1, 2, 1000])
def test_empty_lines_before_a_request_are_ignored(place, empty, cut):
    """Before the first one and between two, however they come (RFC 9112, 2.2): old clients send CRLF behind a body."""
    data = (
        empty
        + get("/", "Content-Length: 3", method="POST", body=b"ann")
        + empty
        + get()
        + empty
        + get("/", "Connection: close")
    )
    peer = place.peer()
    for at in range(0, len(data), cut):
        peer.send(data[at : at + cut])
        place.reactor.run_once(0)
    assert peer.read_to_end() == "EOF"
    assert [content for _, _, content in answers(peer.data, "POST", "GET", "GET")] == [b"hello ann", *[b"hello "] * 2]


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"\n\r"])
def test_an_end_behind_an_empty_line_is_an_end_in_order(place, behind):
    """Nobody has asked anything more, so nothing more is answered."""
    peer = place.asked(get() + behind)
    peer.fin()
    assert peer.read_to_end() == "EOF"
    assert statuses(peer) == [200]
    other = place.asked(behind)
    other.fin()
    assert other.read_to_end() == "EOF"
    assert statuses(other) == []


def test_an_empty_line_behind_a_request_does_not_begin_the_next():
    """The connection is idle, and stays so for as long as an idle one may; more of them keep it no longer."""
    system = SimulatedSystem()
    with Reactor(system=system) as loop, Place(loop, settings={"idle_seconds": 60.0, "head_seconds": 5.0}) as place:
        peer = system.peer(place.listener.addresses[0])
        peer.send(get())
        system.run(loop, 1.0)
        for _ in range(5):
            peer.send(b"\r\n")
            system.run(loop, 10.0)
        assert peer.ending is None
        system.run(loop, 10.0)
        assert peer.ending == "EOF"
        assert statuses(peer) == [200]


def test_requests_on_one_connection_are_answered_in_order(place):
    """Pipelined, split anywhere; a body is given whole; the last asks to close, and is the last."""
    data = get("/", "Content-Length: 3", method="POST", body=b"ann") + get(
        "/", "Transfer-Encoding: chunked", method="POST", body=b"2\r\nbe\r\n1\r\nn\r\n0\r\n\r\n"
    )
    peer = place.peer()
    for byte in data:
        peer.send(bytes([byte]))
        place.reactor.run_once(0)
    peer.send(get("/", "Connection: close") + get("/late"))
    assert peer.read_to_end() == "EOF"
    found = answers(peer.data, "POST", "POST", "GET")
    assert [content for _, _, content in found] == [b"hello ann", b"hello ben", b"hello "]
    assert found[2][1]["connection"] == "close"


def test_a_request_says_what_it_is(place):
    """Names in lower case, repeated fields joined, the query apart, an absolute target's path too."""
    peer = place.asked(get("/?a=b&c", "X-One: 1", "x-one: 2") + get("http://test/?q"))
    turn_until(place.reactor, lambda: len(place.requests) == 2)
    first, second = place.requests
    assert (first.method, first.target, first.path, first.query) == ("GET", "/?a=b&c", "/", "a=b&c")
    assert first.fields["x-one"] == "1, 2"
    assert (second.path, second.query) == ("/", "q")
    assert web.Request("GET", "http://test", {}).path == "/"
    assert web.Request("OPTIONS", "*", {}).path == "*"
    peer.read_until(1)


def test_every_answer_has_date_and_length(place):
    """HEAD has the length that GET has, and no content; 204 has none of either."""
    peer = place.asked(get(method="HEAD") + get() + get("/none"))
    peer.fin()
    peer.read_to_end()
    head, whole, none = answers(peer.data, "HEAD", "GET", "GET")
    assert (head[1]["content-length"], head[2]) == ("6", b"")
    assert (whole[1]["content-length"], whole[2]) == ("6", b"hello ")
    assert "content-length" not in none[1]
    for _, fields, _ in (head, whole, none):
        assert parsedate_to_datetime(fields["date"]).utcoffset().total_seconds() == 0


def test_http_1_0_is_answered_and_ended(place):
    """No keep-alive, no chunks, and nothing to upgrade to."""
    peer = place.asked(get("/", "Upgrade: loud", version="1.0"))
    assert peer.read_to_end() == "EOF"
    assert b"\r\nConnection: close\r\n" in peer.data
    assert "upgrade" not in place.requests[0].fields


def test_a_body_is_asked_for_when_the_client_waits_for_that(place):
    """`Expect: 100-continue`: told to go on, it sends; the answer comes after."""
    peer = place.asked(get("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
    peer.read_until(20)
    assert bytes(peer.data) == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.send(b"ann")
    peer.fin()
    peer.read_to_end()
    assert statuses(peer) == [100, 200]
    assert peer.data.endswith(b"hello ann")


@pytest.mark.parametrize(("path", "length", "status"), [("/", 5000, 413), ("/nowhere", 10, 404), ("/big", 10, 405)])
def test_a_body_that_is_not_wanted_is_not_asked_for(place, path, length, status):
    """The final answer comes instead of `100 Continue`, and the connection ends."""
    peer = place.asked(get(path, f"Content-Length: {length}", "Expect: 100-continue", method="POST"))
    assert peer.read_to_end() == "EOF"
    assert statuses(peer) == [status]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/nowhere", 404), ("GET", "/big", 200)],
)
def test_content_that_means_nothing_is_not_asked_for(place, method, path, status):
    """With GET and HEAD the answer comes at once; the content that may come all the same is read and dropped."""
    peer = place.asked(get(path, "Content-Length: 9", "Expect: 100-continue", method=method))
    peer.read_until(20)
    peer.send(b"X" * 9 + get("/late"))
    assert peer.read_to_end() == "EOF"
    ((found, fields, _),) = answers(peer.data, method)
    assert (found, fields["connection"]) == (status, "close")


def test_an_upgrade_with_content_is_told_to_go_on_first(place):
    """RFC 9110, 7.8: 100 before 101."""
    peer = place.asked(get("/upgrade", "Upgrade: loud", "Content-Length: 2", "Expect: 100-continue"))
    peer.read_until(20)
    assert statuses(peer) == [100]
    peer.send(b"hi")
    peer.read_until(len(peer.data) + 20)
    assert statuses(peer) == [100, 101]


def test_an_uploading_client_gets_the_whole_refusal(place):
    """The rest of the upload is read and dropped, so that the answer is not destroyed by a reset."""
    peer = place.asked(get("/", "Content-Length: 8000000", method="POST"))
    peer.send(b"x" * 8_000_000)
    assert peer.read_to_end() == "EOF"
    ((status, _, content),) = answers(peer.data, "POST")
    assert status == 413
    assert content.endswith(b"the content has more than 1000 bytes\n")


def test_a_failing_site_is_answered_for(place, caplog):
    """500, the traceback in the log, and the next request is answered."""
    peer = place.asked(get("/fails") + get())
    peer.fin()
    peer.read_to_end()
    assert [status for status, _, _ in answers(peer.data, "GET", "GET")] == [500, 200]
    assert "GET /fails: the site failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_h11_is_one_that_reads_chunks_strictly():
    """Every extra that brings h11 demands 0.16: earlier ones take any two bytes for a chunk's end (CVE-2025-43859)."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    for extra, needs in declared["options.extras_require"].items():
        floors = re.findall(r"^h11>=(\d+)\.(\d+)$", needs, re.MULTILINE)
        assert len(floors) == needs.count("h11"), extra
        assert all((int(major), int(minor)) >= (0, 16) for major, minor in floors), extra
    assert "h11" in declared["options.extras_require"]["web"]


def test_a_chunk_ends_with_crlf_and_nothing_else(place):
    """400, and what stands behind it is no request."""
    chunks = b"3\r\nannXX0\r\n\r\n"
    peer = place.asked(get("/", "Transfer-Encoding: chunked", method="POST", body=chunks) + get())
    assert peer.read_to_end() == "EOF"
    assert statuses(peer) == [400]
    assert place.requests == []


# Deadlines


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (b"", []),
        (b"GET / HT", [408]),
        (get("/", "Content-Length: 9", method="POST", body=b"1234"), [408]),
        (get(), [200]),
    ],
    ids=["nothing", "half a head", "half a body", "nothing after an answer"],
)
def test_who_takes_too_long_is_cut_off(loop, sent, found):
    """Told so in the middle of a request; between requests the connection just ends."""
    with Place(loop, settings={"head_seconds": 0.05, "body_seconds": 0.05, "idle_seconds": 0.05}) as place:
        peer = place.asked(sent)
        assert peer.read_to_end() == "EOF"
        assert statuses(peer) == found


def test_a_head_that_dribbles_is_cut_off_all_the_same(loop):
    """Each byte is progress, and none of it moves the deadline."""
    with Place(loop, settings={"head_seconds": 0.1}) as place:
        peer = place.peer()

        def answered():
            try:
                peer.sock.send(b"a")
            except (BrokenPipeError, ConnectionResetError):
                pass
            return peer.read_some() or peer.data

        peer.send(b"GET /")
        turn_until(loop, answered)
        assert statuses(peer) == [408]


def test_a_slow_reader_is_not_idle():
    """The time between requests begins when the answer has been taken; who takes nothing for so long is ended."""
    system = SimulatedSystem(link=Link(receive_buffer_bytes=4096))
    with Reactor(system=system) as loop, Place(loop, settings={"idle_seconds": 60.0}) as place:
        slow, stalled = (system.peer(place.listener.addresses[0]) for _ in range(2))
        for peer in (slow, stalled):
            peer.stop_reading()
            peer.send(get("/big"))
        for _ in range(14):
            system.run(loop, 30.0)
            slow.read(20_000)
        slow.resume_reading()
        slow.send(get("/", "Connection: close"))
        system.run(loop, 10.0)
        assert slow.ending == "EOF"
        assert [content for _, _, content in answers(slow.data, "GET", "GET")] == [b"x" * 300_000, b"hello "]
        stalled.resume_reading()
        assert stalled.ending == "reset"
        slow.close()


def test_a_slow_reader_may_ask_ahead():
    """The next request's time begins when it can be read: not while the answer before it is still being taken."""
    system = SimulatedSystem(link=Link(receive_buffer_bytes=4096))
    options = Options(watermarks=Watermarks(high=1000))
    with Reactor(system=system) as loop, Place(loop, options=options) as place:
        slow = system.peer(place.listener.addresses[0])
        slow.stop_reading()
        slow.send(get("/big"))
        system.run(loop, 1.0)
        slow.send(get("/", "Connection: close"))
        for _ in range(14):
            system.run(loop, 30.0)
            slow.read(20_000)
        slow.resume_reading()
        system.run(loop, 10.0)
        assert [content for _, _, content in answers(slow.data, "GET", "GET")] == [b"x" * 300_000, b"hello "]
        assert slow.ending == "EOF"
        slow.close()


# Backpressure


def test_what_waits_for_a_slow_client_is_bounded(loop):
    """Forty pipelined big answers to who does not read: few are made at a time, and all arrive."""
    with Place(loop, options=Options(watermarks=Watermarks(high=100_000))) as place:
        peer = place.asked(get("/big") * 40, receive_buffer=4096)
        turn_until(loop, lambda: loop.connections)
        (connection,) = loop.connections
        most = 0

        def all_read():
            nonlocal most
            most = max(most, connection.get_write_buffer_size())
            while peer.read_some():
                pass
            return len(peer.data) > 40 * 300_000

        turn_until(loop, all_read)
        assert most < 100_000 + 300_000 + 1000
        assert len(answers(peer.data, *["GET"] * 40)) == 40


def test_what_is_sent_ahead_of_its_turn_is_bounded(place):
    """While a stream is open, whoever goes on sending is not read from without end."""
    peer = place.asked(get("/stream"))
    turn_until(place.reactor, lambda: place.streams)
    taken = 0

    def stopped():
        nonlocal taken
        try:
            taken += peer.sock.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
        except BlockingIOError:
            (connection,) = place.reactor.connections
            return not connection.is_reading()
        return False

    turn_until(place.reactor, stopped)
    assert place.requests == []


# Pieces


class FromElsewhere:
    """Content that is not in memory, as a slice of a file would be."""

    def __init__(self, told):
        self.told = told

    def __len__(self):
        return 5

    def send(self, connection):
        self.told.append("send")
        connection.write(b"piece")

    def close(self):
        self.told.append("close")


@pytest.mark.parametrize(("method", "content", "told"), [("GET", b"a piece b", ["send"]), ("HEAD", b"", ["close"])])
def test_content_can_come_from_elsewhere(loop, method, content, told):
    """Each piece in its turn, counted; for HEAD it is only let go."""
    found = []
    site = lambda _: web.Response(content=(b"a ", FromElsewhere(found), b" b"))  # noqa: E731
    with Place(loop, site=site) as place:
        peer = place.asked(get("/", "Connection: close", method=method))
        assert peer.read_to_end() == "EOF"
        ((_, fields, received),) = answers(peer.data, method)
        assert (fields["content-length"], received) == ("9", content)
        assert found == told


# Streams


def test_a_stream_is_written_as_time_goes_by(place):
    """In chunks; after its end the next request is answered on the same connection."""
    peer = place.asked(get("/stream") + get())
    turn_until(place.reactor, lambda: place.streams)
    (stream,) = place.streams
    stream.write(b"")
    stream.write(b" second")
    peer.read_until(100)
    assert place.requests == []
    stream.end()
    stream.end()
    with pytest.raises(WriteAfterEnd):
        stream.write(b"too late")
    peer.fin()
    assert peer.read_to_end() == "EOF"
    first, second = answers(peer.data, "GET", "GET")
    assert (first[1]["transfer-encoding"], first[2]) == ("chunked", b"first second")
    assert second[2] == b"hello "
    assert stream.told == ["opened"]


def test_a_stream_to_http_1_0_ends_with_our_fin(place):
    """There are no chunks in 1.0."""
    peer = place.asked(get("/stream", version="1.0"))
    turn_until(place.reactor, lambda: place.streams)
    place.streams[0].end()
    assert peer.read_to_end() == "EOF"
    assert peer.data.endswith(b"\r\n\r\nfirst")


def test_the_head_of_a_stream_opens_nothing(place):
    """Its fields are told, and the connection goes on."""
    peer = place.asked(get("/stream", method="HEAD") + get("/", "Connection: close"))
    peer.read_to_end()
    first, second = answers(peer.data, "HEAD", "GET")
    assert (first[1]["content-type"], second[2]) == ("text/event-stream", b"hello ")
    assert place.streams[0].told == []


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_stream_is_told_once_that_its_peer_has_gone(place, how):
    """Whether the tab was closed or the machine broke down."""
    peer = place.asked(get("/stream"))
    turn_until(place.reactor, lambda: place.streams)
    getattr(peer, how)()
    (stream,) = place.streams
    turn_until(place.reactor, lambda: not place.reactor.connections or "gone" in stream.told)
    if how == "fin":
        assert peer.read_to_end() == "EOF"
        assert b"\r\n0\r\n" not in peer.data
    turn_until(place.reactor, lambda: not place.reactor.connections)
    assert stream.told == ["opened", "gone"]
    with pytest.raises(WriteAfterEnd):
        stream.write(b"too late")


def test_a_stream_that_waited_its_turn_is_told_of_an_earlier_fin(loop):
    """The FIN came while an answer before it was still being read: it opens, and its peer has gone."""
    options = Options(watermarks=Watermarks(high=1000), sockets=Sockets(send_buffer_bytes=4096))
    with Place(loop, options=options) as place:
        peer = place.asked(get("/big") + get("/stream"), 4096)
        peer.fin()
        turn_until(loop, lambda: loop.connections and loop.connections[0].state is PEER_END)
        assert place.streams == []
        assert peer.read_to_end() == "EOF"
        turn_until(loop, lambda: not loop.connections)
        assert place.streams[0].told == ["opened", "gone"]


def test_a_stream_whose_reader_is_too_slow_is_cut_off_visibly(place):
    """By default; with a reset, so that nobody takes the rest for the whole."""
    peer = place.asked(get("/stream"), receive_buffer=4096)
    turn_until(place.reactor, lambda: place.streams)
    (stream,) = place.streams

    def gone():
        if "gone" not in stream.told:
            stream.write(b"x" * 10_000)
        return "gone" in stream.told

    turn_until(place.reactor, gone)
    assert peer.read_to_end() == "reset"


# Handing over


def test_an_upgrade_hands_the_connection_over(place):
    """With what was sent behind the request, with the deadlines gone, and with its end."""
    peer = place.asked(get("/upgrade", "Connection: upgrade", "Upgrade: loud", body=b"hello "))
    turn_until(place.reactor, lambda: place.upgraded)
    peer.send(b"there")
    peer.fin()
    assert peer.read_to_end() == "EOF"
    head, _, rest = bytes(peer.data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert rest == b"HELLO THERE"


def test_an_upgrade_with_much_behind_it_is_read_on(place):
    """What came ahead of its turn held up reading; now it is the other protocol's, and so is what follows."""
    peer = place.asked(get("/upgrade", "Connection: upgrade", "Upgrade: loud", body=b"a" * 20_000))
    turn_until(place.reactor, lambda: place.upgraded)
    peer.send(b"and more")
    peer.fin()
    assert peer.read_to_end() == "EOF"
    assert peer.data.endswith(b"A" * 20_000 + b"AND MORE")


def test_the_deadlines_of_requests_are_over_with_the_request(loop):
    """Neither an open stream nor an upgraded connection is cut off by them."""
    with Place(loop, settings={"head_seconds": 0.05, "idle_seconds": 0.05}) as place:
        stream = place.asked(get("/stream"))
        upgraded = place.asked(get("/upgrade", "Connection: upgrade", "Upgrade: loud"))
        turn_until(loop, lambda: place.streams and place.upgraded)
        until = loop.time() + 0.15
        turn_until(loop, lambda: loop.time() > until)
        place.streams[0].end()
        upgraded.send(b"still here")
        upgraded.fin()
        assert stream.read_to_end() == upgraded.read_to_end() == "EOF"
        assert answers(stream.data)[0][2] == b"first"
        assert upgraded.data.endswith(b"STILL HERE")


def test_an_upgrade_that_waited_its_turn_is_told_of_an_earlier_fin(loop):
    """The FIN came while an answer before it was still being read."""
    options = Options(watermarks=Watermarks(high=1000), sockets=Sockets(send_buffer_bytes=4096))
    with Place(loop, options=options) as place:
        peer = place.asked(get("/big") + get("/upgrade", "Connection: upgrade", "Upgrade: loud", body=b"hello"), 4096)
        peer.fin()
        turn_until(loop, lambda: loop.connections and loop.connections[0].state is PEER_END)
        assert place.upgraded == []
        assert peer.read_to_end() == "EOF"
        assert peer.data.endswith(b"Upgrade: loud\r\n\r\nHELLO")


# Draining


def test_a_drain_ends_idle_connections_and_answers_what_was_begun():
    """Who has asked half gets its answer, with `close`; who has only just come gets a moment to ask."""
    system = SimulatedSystem(link=Link(latency=0.05))
    with Reactor(system=system) as loop, Place(loop) as place:
        idle, begun, new, silent = peers = [system.peer(place.listener.addresses[0]) for _ in range(4)]
        idle.send(get())
        begun.send(get()[:-2])
        system.run(loop, 1.0)
        for peer in peers:
            peer.on_change = lambda peer: peer.ending == "EOF" and peer.fin()
        loop.call_soon(loop.drain, 5)
        system.run(loop, 0.5)
        assert [peer.ending for peer in peers] == ["EOF", None, None, None]
        begun.send(b"\r\n")
        new.send(get())
        system.run(loop, 0.4)
        assert [peer.ending for peer in peers] == ["EOF", "EOF", "EOF", None]
        for peer in (begun, new):
            ((status, fields, _),) = answers(peer.data)
            assert (status, fields["connection"]) == (200, "close")
        system.run(loop, 0.4)
        assert (silent.data, silent.ending) == (b"", "EOF")
        assert loop.drained.clean


def test_a_drain_ends_streams(place):
    """With their last chunk, then EOF."""
    peer = place.asked(get("/stream"))
    turn_until(place.reactor, lambda: place.streams)
    place.reactor.call_soon(place.reactor.drain, 5)
    assert peer.read_to_end() == "EOF"
    assert answers(peer.data)[0][2] == b"first"
    peer.close()
    assert place.reactor.drain(5).clean


# The log


def test_each_answer_is_logged(place, caplog):
    """Peer, request, status and length; what never arrived is told as well."""
    caplog.set_level(logging.INFO, "samples.web")
    peer = place.asked(get("/?a") + b"rubbish\r\n\r\n")
    assert peer.read_to_end() == "EOF"
    address = f"127.0.0.1:{peer.sock.getsockname()[1]}"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f'{address} "GET /?a" 200 6'
    assert re.fullmatch(rf'{address} "-" 400 \d+', lines[1])


def test_an_answer_that_was_not_taken_is_logged(loop, caplog):
    """The log had it as sent; the bytes that were not are told when the connection has ended."""
    caplog.set_level(logging.INFO, "samples.web")
    options = Options(sockets=Sockets(send_buffer_bytes=4096), limits=Limits(send_bytes=4096))
    with Place(loop, options=options) as place:
        peer = place.asked(get("/big"), receive_buffer=4096)
        peer.read_until(100)
        peer.reset()
        turn_until(loop, lambda: not loop.connections)
        assert re.search(r"127\.0\.0\.1:\d+ \d+ bytes of the answers were not sent: ", caplog.text)


# Rubbish


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=set(Phase) - {Phase.shrink},  # each failing example costs all the patience there is
)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([get(), get("/stream"), get("/big"), b"\r\n", b"0\r\n\r\n", b"Host: a", b"\x00"]),
            st.sampled_from([get("/", "Transfer-Encoding: chunked", method="POST"), b"GET / HTTP/1.1\r\n"]),
            st.binary(max_size=50),
        ),
        max_size=6,
    )
)
def test_whatever_is_sent_the_connection_ends_in_order(loop, pieces):
    """No exception, no reset, and only whole answers, however the bytes are put together."""
    with Place(loop) as place:
        peer = place.peer()
        for piece in pieces:
            peer.send(piece)
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert set(statuses(peer)) <= {200, 400, 404, 405, 501, 505}
        place.listener.close()
