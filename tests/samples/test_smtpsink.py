"""The mail sink: its conversation alone, on the simulated kernel, and as a process with the clients people have."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import Future
from email.message import EmailMessage
from pathlib import Path

import pytest

from reactor import Limits, Options, Reactor
from reactor.testing import Link, SimulatedSystem
from samples import smtpsink
from samples.smtpsink.session import COMMANDS, Message, Reply, Session
from samples.smtpsink.sink import Sink, keep, shown, write_all
from tests.helpers import Peer, turn_until
from tests.samples.processes import PATIENCE, wait_for
from tests.test_tls import TLSPeer, authority, certificate, client_context, server_context

# The conversation alone


def session(*commands: str, size_limit: int = 1000, **tls: bool) -> Session:
    made = Session("sink.test", "192.0.2.1", size_limit, **tls)
    for command in commands:
        assert made.obey(command.encode()).code < 400, command
    return made


HELLO = ("EHLO client.test",)
SENDER = (*HELLO, "MAIL FROM:<a@b.test>")
RECIPIENT = (*SENDER, "RCPT TO:<c@d.test>")


@pytest.mark.parametrize(
    ("before", "command", "code"),
    [
        ((), "EHLO client.test", 250),
        ((), "ehlo client.test", 250),
        ((), "HELO client.test", 250),
        ((), "EHLO", 501),
        ((), "HELO ", 501),
        ((), "NOOP anything at all", 250),
        ((), "HELP", 214),
        ((), "VRFY somebody", 252),
        ((), "VRFY", 501),
        ((), "QUIT", 221),
        ((), "QUIT now", 501),
        ((), "RSET", 250),
        ((), "", 500),
        ((), " NOOP", 500),
        ((), "HELLO?", 500),
        ((), "EXPN list", 502),
        ((), "STARTTLS", 502),
        ((), "GET / HTTP/1.1", 421),
        ((), "post /x HTTP/1.1", 421),
        ((), "Host: 127.0.0.1:2525", 421),
        ((), "\x16\x03\x01", 421),
        ((), "MAIL FROM:<a@b.test>", 503),
        ((), "RCPT TO:<c@d.test>", 503),
        ((), "DATA", 503),
        (HELLO, "MAIL FROM:<a@b.test>", 250),
        (HELLO, "mail from:<a@b.test>", 250),
        (HELLO, "MAIL FROM: <a@b.test>", 250),
        (HELLO, "MAIL FROM:<>", 250),
        (HELLO, 'MAIL FROM:<"odd > one"@b.test>', 250),
        (HELLO, "MAIL FROM:<@relay.test,@other.test:a@b.test>", 250),
        (HELLO, "MAIL FROM:<a@b.test> SIZE=1000 BODY=8BITMIME SMTPUTF8", 250),
        (HELLO, "MAIL FROM:<ä@b.test> SMTPUTF8", 250),
        (HELLO, "MAIL FROM:<ä@b.test>", 553),
        (HELLO, "MAIL FROM:<a\x1b@b.test>", 501),
        (HELLO, "MAIL FROM:a@b.test", 501),
        (HELLO, "MAIL FROM:<a@b.test", 501),
        (HELLO, "MAIL FROM:<a@b.test> <", 501),
        (HELLO, "MAIL <a@b.test>", 501),
        (HELLO, "MAIL", 501),
        (HELLO, "MAIL FROM:<a@b.test> SIZE=1001", 552),
        (HELLO, "MAIL FROM:<a@b.test> SIZE=" + "9" * 21, 501),
        (HELLO, "MAIL FROM:<a@b.test> SIZE=-1", 501),
        (HELLO, "MAIL FROM:<a@b.test> BODY=BINARYMIME", 555),
        (HELLO, "MAIL FROM:<a@b.test> RET=FULL", 555),
        (HELLO, f"MAIL FROM:<{'a' * 64}@b.test>", 250),
        (HELLO, f"MAIL FROM:<{'a' * 65}@b.test>", 501),
        (HELLO, f"MAIL FROM:<a@{'b' * 252}>", 250),
        (HELLO, f"MAIL FROM:<a@{'b' * 253}>", 501),
        (("HELO client.test",), "MAIL FROM:<a@b.test>", 250),
        (("HELO client.test",), "MAIL FROM:<a@b.test> SIZE=5", 555),
        (HELLO, "RCPT TO:<c@d.test>", 503),
        (SENDER, "MAIL FROM:<a@b.test>", 503),
        (SENDER, "DATA", 503),
        (SENDER, "RCPT TO:<c@d.test>", 250),
        (SENDER, "RCPT TO:<Postmaster>", 250),
        (SENDER, "RCPT TO:<>", 501),
        (SENDER, "RCPT TO:c@d.test", 501),
        (SENDER, "RCPT TO:<ä@d.test>", 553),
        (SENDER, "RCPT TO:<c@d.test> NOTIFY=NEVER", 555),
        ((*HELLO, "MAIL FROM:<a@b.test> SMTPUTF8"), "RCPT TO:<ä@d.test>", 250),
        (RECIPIENT, "RCPT TO:<e@f.test>", 250),
        (RECIPIENT, "DATA", 354),
        (RECIPIENT, "DATA now", 501),
        ((*RECIPIENT, "RSET"), "DATA", 503),
        ((*RECIPIENT, "EHLO again"), "DATA", 503),
    ],
)
def test_each_command_has_its_reply(before, command, code):
    """The code says what is wrong: unknown 500, not done here 502, form 501, order 503, parameter 555, too big 552."""
    conversation = session(*before)
    answer = conversation.obey(command.encode())
    assert answer.code == code
    assert answer.encode().startswith(b"%d" % code)
    assert answer.encode().endswith(b"\r\n")
    assert answer.ends == (code in (221, 421))
    assert conversation.in_message == (code == 354)


def test_a_reply_of_several_lines_has_a_dash_on_all_but_the_last():
    """And EHLO's names what there is."""
    lines = session().obey(b"EHLO x").encode().splitlines()
    assert lines[0] == b"250-sink.test"
    assert lines[1:-1] == [
        b"250-PIPELINING",
        b"250-SIZE 1000",
        b"250-8BITMIME",
        b"250-SMTPUTF8",
        b"250-ENHANCEDSTATUSCODES",
    ]
    assert lines[-1] == b"250 HELP"


def test_a_machine_whose_name_is_not_ascii_can_greet():
    """A reply has nothing but ASCII."""
    assert Session("größe", "192.0.2.1", 1000).greeting().encode().startswith(b"220 gr??e ESMTP")


def test_help_names_every_command():
    """Each of them is obeyed; STARTTLS is not named where there is no certificate."""
    assert session(offers_tls=True).obey(b"HELP").lines == ("2.0.0 " + " ".join(COMMANDS),)
    assert session().obey(b"HELP").lines == ("2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT",)


def words(conversation: Session) -> tuple[str, ...]:
    return conversation.obey(b"EHLO client.test").lines


@pytest.mark.parametrize(
    ("before", "command", "code"),
    [
        (HELLO, "STARTTLS", 220),
        (HELLO, "starttls", 220),
        (RECIPIENT, "STARTTLS", 220),
        (HELLO, "STARTTLS now", 501),
        ((), "STARTTLS", 503),
        (("HELO client.test",), "STARTTLS", 503),
    ],
)
def test_starttls_has_its_reply(before, command, code):
    """It is an extension, so EHLO comes first; and it takes no parameters."""
    conversation = session(*before, offers_tls=True)
    assert conversation.obey(command.encode()).code == code
    assert conversation.starting_tls == (code == 220)


def test_after_the_handshake_nothing_is_remembered_and_starttls_is_not_offered_again():
    """EHLO, sender and recipients are forgotten; a second STARTTLS is out of order."""
    conversation = session(*RECIPIENT, offers_tls=True)
    assert "STARTTLS" in words(session(offers_tls=True))
    assert conversation.obey(b"STARTTLS").code == 220
    conversation.secured()
    assert conversation.obey(b"DATA").code == 503
    assert conversation.obey(b"MAIL FROM:<a@b.test>").code == 503
    assert "STARTTLS" not in words(conversation)
    assert conversation.obey(b"MAIL FROM:<a@b.test>").code == 250
    assert conversation.obey(b"RCPT TO:<c@d.test>").code == 250
    assert conversation.obey(b"STARTTLS").code == 503


def test_under_tls_from_the_first_byte_starttls_is_out_of_order():
    """And is not offered."""
    conversation = session(offers_tls=True, under_tls=True)
    assert "STARTTLS" not in words(conversation)
    assert conversation.obey(b"STARTTLS").code == 503


def test_what_is_not_utf_8_is_refused():
    """In a parameter as in a command."""
    assert session(*HELLO).obey(b"MAIL FROM:<\xff@b.test> SMTPUTF8").code == 501
    assert session(*HELLO).obey(b"\xff\xfe").code == 500


def test_a_client_that_is_wrong_all_the_time_is_sent_away():
    """The twentieth error is answered with 421."""
    conversation = session()
    assert [conversation.obey(b"what?").code for _ in range(20)] == [500] * 19 + [421]


def test_recipients_have_a_limit():
    """452 for those that are too many; the others stay."""
    conversation = session(*SENDER)
    codes = {conversation.obey(b"RCPT TO:<c%d@d.test>" % number).code for number in range(1000)}
    assert codes == {250}
    assert conversation.obey(b"RCPT TO:<c@d.test>").code == 452
    assert conversation.obey(b"DATA").code == 354


def taken(conversation: Session, *lines: bytes) -> Message | Reply | None:
    *first, last = lines
    for line in first:
        assert conversation.take(line) is None
    return conversation.take(last)


def test_a_message_is_what_was_sent_without_the_dots():
    """A leading dot is taken off; the lone one ends it, and another message may follow."""
    conversation = session(*RECIPIENT, "DATA")
    message = taken(conversation, b"Subject: x", b"", b"..", b".dot", b"", b".")
    assert message == Message("192.0.2.1", "a@b.test", ("c@d.test",), (), b"Subject: x\r\n\r\n.\r\ndot\r\n\r\n")
    assert not conversation.in_message
    assert conversation.obey(b"DATA").code == 503
    for command in (*SENDER[1:], "RCPT TO:<e@f.test>", "DATA"):
        conversation.obey(command.encode())
    second = taken(conversation, b".")
    assert isinstance(second, Message)
    assert (second.recipients, second.content) == (("e@f.test",), b"")


def test_a_message_that_is_too_big_is_refused_at_its_end():
    """Nothing of it is held meanwhile; exactly the limit is taken."""
    assert isinstance(taken(session(*RECIPIENT, "DATA"), b"x" * 498, b"x" * 498, b"."), Message)
    conversation = session(*RECIPIENT, "DATA")
    assert taken(conversation, b"x" * 499, b"x" * 498, *[b"y" * 900] * 50) is None
    assert not conversation._content
    refusal = conversation.take(b".")
    assert isinstance(refusal, Reply)
    assert refusal.code == 552
    assert conversation.obey(b"MAIL FROM:<a@b.test>").code == 250


# What is printed and kept


def message(content: bytes, **more) -> Message:
    given = {"peer": "192.0.2.1", "sender": "a@b.test", "recipients": ("c@d.test",), "options": (), **more}
    return Message(content=content, **given)


def test_a_message_is_printed_in_the_familiar_form():
    """The envelope stands behind the headers, as X-Peer always did."""
    assert shown(message(b"Subject: x\r\nTo: c@d.test\r\n\r\nhello\r\n", recipients=("c@d.test", "e@f.test"))) == (
        "---------- MESSAGE FOLLOWS ----------\n"
        "Subject: x\n"
        "To: c@d.test\n"
        "X-Peer: 192.0.2.1\n"
        "X-MailFrom: a@b.test\n"
        "X-RcptTo: c@d.test\n"
        "X-RcptTo: e@f.test\n"
        "\n"
        "hello\n"
        "------------ END MESSAGE ------------\n"
    )
    assert "\nmail options: ['SMTPUTF8']\n\nSubject" in shown(message(b"Subject: x\r\n", options=("SMTPUTF8",)))


def test_what_could_drive_a_terminal_is_escaped_when_printed():
    """Escape sequences, bare line ends, what is no UTF-8, and text that turns around."""
    printed = shown(message("ü\t\x1b[31m\nx\ry \u202e".encode() + b"\xff\r\n", sender="\x1b@b.test"))
    assert "ü\t\\x1b[31m\\nx\\ry \\u202e\\xff\n" in printed
    assert "X-MailFrom: \\x1b@b.test\n" in printed


def test_a_kept_message_is_whole_under_its_name(tmp_path, monkeypatch):
    """Byte for byte behind the envelope; before it is whole, only a hidden name is there."""
    seen = []
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *names: (seen.append(os.listdir(tmp_path)), rename(*names)))
    path = keep(message(b"Subject: x\r\n\r\n\xff\0\nbare\r\n"), tmp_path)
    assert path.read_bytes() == (
        b"X-Peer: 192.0.2.1\r\nX-MailFrom: a@b.test\r\nX-RcptTo: c@d.test\r\nSubject: x\r\n\r\n\xff\0\nbare\r\n"
    )
    assert [name.startswith(".") for names in seen for name in names] == [True]
    assert os.listdir(tmp_path) == [path.name]


def test_no_address_makes_a_line_of_its_own(tmp_path):
    """Whatever a message holds: its envelope is as many lines as it has recipients, and two."""
    path = keep(message(b"\r\n", sender="a\r\nX-Forged: 1", recipients=("b\nc",)), tmp_path)
    assert path.read_bytes() == b"X-Peer: 192.0.2.1\r\nX-MailFrom: a\\r\\nX-Forged: 1\r\nX-RcptTo: b\\nc\r\n\r\n"


@pytest.mark.parametrize(("call", "good"), [("fsync", 0), ("fsync", 1), ("rename", 0), ("open", 0)])
def test_a_message_that_cannot_be_kept_leaves_no_file(no_descriptor_left, tmp_path, monkeypatch, call, good):
    """Not even the hidden one, at whatever step it fails: the file, its name, the directory."""
    calls, really = [], getattr(os, call)

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > good:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(*arguments)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        keep(message(b"x\r\n"), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_what_was_written_of_a_part_is_cut_off_again(tmp_path, monkeypatch, mode):
    """From a file; what stood there before stays, and what somebody else has written behind it, too."""
    path, really = tmp_path / "out", os.write

    def full(fd, data):
        if len(data) < 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(fd, data[:3])

    def followed(fd, data):
        if data[:3] != b"xyz":
            raise OSError(errno.ENOSPC, "No space left on device")
        written = really(fd, data[:3])
        with path.open("ab") as other:
            other.write(b" of somebody else")
        return written

    path.write_bytes(b"before\n" if mode == "ab" else b"")
    with path.open(mode, buffering=0) as out:
        if mode == "wb":
            out.write(b"before\n")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            write_all(out.fileno(), b"a message")
        assert path.read_bytes() == b"before\n"
        monkeypatch.setattr(os, "write", lambda fd, data: really(fd, data[:4]))
        write_all(out.fileno(), b"another message")
        assert path.read_bytes() == b"before\nanother message"
        monkeypatch.setattr(os, "write", followed)
        with pytest.raises(OSError, match="No space"):
            write_all(out.fileno(), b"xyz and more")
        assert path.read_bytes() == b"before\nanother messagexyz of somebody else"


def test_an_output_that_would_block_is_waited_for():
    """Somebody who shares it may have made it non-blocking."""
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader, open(write_end, "wb", buffering=0) as writer:
        os.set_blocking(write_end, False)
        data = bytes(range(256)) * 4096
        writing = threading.Thread(target=lambda: (write_all(write_end, data), writer.close()))
        writing.start()
        assert b"".join(iter(lambda: reader.read(65536), b"")) == data
        writing.join()


# On the simulated kernel


class Collected(Sink):
    """Keeps messages in memory, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.messages: list[Message] = []
        self.failure = failure

    def deliver(self, message: Message) -> None:
        if self.failure is not None:
            raise self.failure
        self.messages.append(message)


class SlowThreads(SimulatedSystem):
    """What runs in a thread has come to its end `delay` virtual seconds later."""

    delay = 0.0

    def submit(self, function, *args):
        future: Future = Future()

        def finish() -> None:
            try:
                future.set_result(function(*args))
            except OSError as exc:
                future.set_exception(exc)

        self.after(self.delay, finish)
        return future


class World:
    """A sink and one scripted client."""

    def __init__(self, failure=None, link=None, delay=0.0, **how) -> None:
        self.system = SlowThreads(link=link or Link())
        self.system.delay = delay
        self.reactor = Reactor(system=self.system)
        self.sink = Collected(failure)
        self.listener = smtpsink.serve(self.reactor, "127.0.0.1", 0, sink=self.sink, **how)
        self.peer = self.system.peer(self.listener.addresses[0])
        self.run(1)

    def run(self, seconds):
        self.system.run(self.reactor, seconds)

    def say(self, data: bytes, seconds: float = 1.0) -> list[int]:
        """The codes that come for it."""
        before = len(self.peer.data)
        self.peer.send(data)
        self.run(seconds)
        lines = bytes(self.peer.data[before:]).splitlines()
        return [int(line[:3]) for line in lines if line[3:4] == b" "]

    def codes(self) -> list[int]:
        return [int(line[:3]) for line in bytes(self.peer.data).splitlines() if line[3:4] == b" "]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.reactor.close()
        assert not self.system.descriptors


START = b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
STARTED = [250, 250, 250, 354]


def contents(world: World) -> list[bytes]:
    return [message.content for message in world.sink.messages]


def test_a_whole_conversation_in_one_segment_is_answered_in_order():
    """Pipelined even where it may not be: two messages, a refused command between them, and the end."""
    with World() as world:
        one = START + b"one\r\n.\r\nWHAT\r\n"
        assert world.say(one + START + b"two\r\n.\r\nQUIT\r\nNOOP\r\n") == [*STARTED, 250, 500, *STARTED, 250, 221]
        assert contents(world) == [b"one\r\n", b"two\r\n"]
        assert world.peer.ending == "EOF"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_it_does_not_matter_how_the_stream_is_cut(size):
    """CR LF and the dot are understood over any number of segments."""
    with World(link=Link(segment_bytes=size)) as world:
        assert world.say(START + b"a\r\n..\r\n\r\n.\r\nQUIT\r\n", 5) == [*STARTED, 250, 221]
        assert contents(world) == [b"a\r\n.\r\n\r\n"]


@pytest.mark.parametrize(
    "smuggled",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\n.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n\0.\r\n", b"\r\r\n.\n"],
)
def test_only_a_dot_between_two_cr_lf_ends_a_message(smuggled):
    """SMTP smuggling: what follows any other dot is content, and no command."""
    with World() as world:
        inner = b"MAIL FROM:<admin@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nforged\r\n"
        assert world.say(START + b"x" + smuggled + inner) == STARTED
        assert world.say(b".\r\n") == [250]
        (message,) = world.sink.messages
        assert message.sender == "a@b.test"
        assert b"MAIL FROM:<admin@b.test>" in message.content


def test_a_command_without_cr_is_refused_and_the_next_is_obeyed():
    """Who types into nc without -C is told so at once."""
    with World() as world:
        assert world.say(b"EHLO x\n") == [500]
        assert b"CR LF" in world.peer.data
        assert world.say(b"EHLO x\r\n") == [250]


def test_a_command_that_is_too_long_is_refused_and_skipped():
    """565 bytes with CR LF are taken; of more, however much it is, nothing is held."""
    with World() as world:
        assert world.say(b"NOOP " + b"x" * 558 + b"\r\n") == [250]
        assert world.say(b"NOOP " + b"x" * 559 + b"\r\n") == [500]
        assert world.say(b"NOOP " + b"x" * 1_000_000) == [500]
        assert world.reactor.connections[0].get_protocol().unread == 0
        assert world.say(b"x\r\nNOOP\r\n") == [250]


@pytest.mark.parametrize(
    ("line", "code"),
    [(b"x" * 998, 250), (b"x" * 999, 500), (b".." + b"x" * 997, 250), (b"x" * 100_000, 500)],
    ids=["limit", "one more", "dot", "far more"],
)
def test_a_line_of_a_message_has_a_limit(line, code):
    """A thousand bytes with CR LF; the dot that was put before it is not counted. The refusal comes at the end."""
    with World() as world:
        assert world.say(START + b"before\r\n" + line + b"\r\nafter\r\n") == STARTED
        assert world.say(b".\r\nNOOP\r\n") == [code, 250]
        assert len(world.sink.messages) == (code == 250)


def test_the_first_reason_to_refuse_a_message_is_told():
    """Too big, and then a line that is too long: 552."""
    with World(size_limit=1000) as world:
        assert world.say(START + (b"x" * 98 + b"\r\n") * 11 + b"x" * 2000 + b"\r\n.\r\n") == [*STARTED, 552]


def test_a_message_that_is_too_big_is_answered_where_it_ends():
    """552, and the conversation goes on."""
    with World(size_limit=10_000) as world:
        assert world.say(START + (b"x" * 98 + b"\r\n") * 101 + b".\r\n" + START + b"y\r\n.\r\n") == [
            *STARTED,
            552,
            *STARTED,
            250,
        ]
        assert contents(world) == [b"y\r\n"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [(OSError(errno.ENOSPC, "full"), 452), (OSError(errno.EIO, "broken"), 451)],
    ids=["full", "broken"],
)
def test_a_message_that_could_not_be_delivered_is_not_acknowledged(failure, code):
    """The client may try again later: the code is of that kind."""
    with World(failure=failure) as world:
        assert world.say(START + b"x\r\n.\r\nNOOP\r\n") == [*STARTED, code, 250]


def test_what_follows_a_message_waits_until_it_is_delivered():
    """The next commands and the client's FIN are held; the answers come in order."""
    with World(delay=10) as world:
        world.peer.send(START + b"x\r\n.\r\nNOOP\r\nQUIT\r\n")
        world.peer.fin()
        world.run(5)
        assert world.codes() == [220, *STARTED]
        world.run(10)
        assert world.codes() == [220, *STARTED, 250, 250, 221]
        assert world.peer.ending == "EOF"


def test_a_client_that_leaves_while_its_message_is_delivered_harms_nobody():
    """The message is delivered; there is nobody to tell."""
    with World(delay=10) as world:
        world.say(START + b"x\r\n.\r\n")
        world.peer.reset()
        world.run(20)
        assert contents(world) == [b"x\r\n"]


@pytest.mark.parametrize("rest", [b"", b"half a line"])
def test_a_client_that_leaves_in_the_middle_of_a_message_leaves_nothing(rest, caplog):
    """It is dropped, with a word in the log, and the end is in order."""
    with World() as world:
        world.peer.send(START + b"one line\r\n" + rest)
        world.peer.fin()
        world.run(5)
        assert world.peer.ending == "EOF"
        assert not world.sink.messages
        assert "in the middle of a message" in caplog.text


def test_a_drain_says_421_between_commands():
    """Then the end, in order."""
    with World() as world:
        assert world.say(b"EHLO x\r\n") == [250]
        assert world.reactor.drain(30).clean
        world.run(1)
        assert world.codes() == [220, 250, 421]
        assert world.peer.ending == "EOF"


@pytest.mark.parametrize("delay", [0, 5])
def test_a_drain_lets_a_message_be_finished(delay):
    """What is under way is taken, acknowledged, and only then comes 421."""
    with World(delay=delay) as world:
        assert world.say(START + b"one\r\n") == STARTED
        world.system.after(2, world.peer.send, b"two\r\n.\r\nNOOP\r\n")
        assert world.reactor.drain(30).clean
        world.run(1)
        assert world.codes() == [220, *STARTED, 250, 421]
        assert contents(world) == [b"one\r\ntwo\r\n"]


def test_a_drain_while_a_message_is_delivered_waits_for_it():
    """250 comes, and then 421."""
    with World(delay=5) as world:
        assert world.say(START + b"one\r\n.\r\n") == STARTED
        assert world.reactor.drain(30).clean
        world.run(1)
        assert world.codes() == [220, *STARTED, 250, 421]


def test_a_client_that_does_not_read_the_replies_is_not_read_from():
    """Ten thousand commands in one go: what waits for it is bounded, and every reply comes once it reads."""
    with World(link=Link(receive_buffer_bytes=4096, send_buffer_bytes=4096)) as world:
        world.peer.stop_reading()
        world.peer.send(b"NOOP\r\n" * 20_000)
        world.run(10)
        (connection,) = world.reactor.connections
        high = connection.get_write_buffer_limits()[1]
        assert connection.get_write_buffer_size() <= high + 20_000
        world.peer.resume_reading()
        world.run(100)
        assert world.codes() == [220] + [250] * 20_000


def test_a_client_that_reads_again_still_waits_for_its_delivery():
    """Two reasons to wait: the end of one is not the end of the other."""
    with World(delay=20) as world:
        assert world.say(START + b"x\r\n.\r\nVRFY\r\n") == STARTED
        visit = world.reactor.connections[0].get_protocol()
        visit.pause_writing()
        visit.resume_writing()
        world.run(10)
        assert world.codes()[-4:] == STARTED
        world.run(20)
        assert world.codes()[-2:] == [250, 501]


def test_a_silent_client_is_let_go_after_five_minutes():
    """RFC 5321's patience, and no longer."""
    with World() as world:
        world.run(295)
        assert world.peer.ending is None
        world.run(10)
        assert world.peer.ending == "EOF"


# STARTTLS


@pytest.mark.parametrize(
    "behind",
    [b"MAIL FROM:<admin@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nforged\r\n.\r\n", b"MAIL", b"\n", b"\x16\x03\x01"],
    ids=["commands", "half a command", "a line end", "a handshake"],
)
def test_what_came_behind_starttls_in_the_clear_is_never_obeyed(behind, caplog):
    """No 220, no handshake, no message: 421, the end in order, and a line of the log."""
    with World(tls=server_context()) as world:
        assert world.say(b"EHLO x\r\nSTARTTLS\r\n" + behind) == [250, 421]
        world.say(START)
        assert world.codes() == [220, 250, 421]
        assert world.peer.ending == "EOF"
        assert not world.sink.messages
        assert "127.0.0.1 sent more behind STARTTLS in the clear" in caplog.text


def test_a_client_that_is_gone_before_the_220_begins_no_handshake(caplog):
    """Its reset is found where a reply is written; what it had still sent is not obeyed, and is no error of ours."""
    asked = b"EHLO x\r\nSTARTTLS\r\n"
    with World(tls=server_context(), options=Options(limits=Limits(read_bytes=len(asked)))) as world:
        world.peer.send(asked + b"NOOP\r\n")
        world.peer.reset()
        world.run(5)
        assert world.reactor.connections == ()
    assert caplog.text == ""


class Secured:
    """A sink on real sockets, and a raw client that was told to begin the handshake."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.sink = Collected()
        self.listener = smtpsink.serve(reactor, "127.0.0.1", 0, sink=self.sink, tls=server_context())
        self.peer = Peer(socket.create_connection(self.listener.addresses[0]), reactor)
        self.said(self.peer, b"220 ")
        self.peer.send(b"EHLO x\r\n")
        self.said(self.peer, b"250 HELP\r\n")
        assert b"250-STARTTLS\r\n" in self.peer.data
        self.peer.send(b"STARTTLS\r\n")
        self.said(self.peer, b"220 2.0.0 go ahead\r\n")

    def said(self, peer: Peer, words: bytes) -> None:
        turn_until(self.reactor, lambda: (peer.read_some() or True) and words in peer.data)

    def tls(self) -> TLSPeer:
        return TLSPeer(self.peer.sock, self.reactor, client_context(), "localhost").shake()


def test_under_tls_the_conversation_begins_anew():
    """Without a greeting; what was said in the clear counts for nothing, and the rest is as ever."""
    with Reactor() as reactor:
        world = Secured(reactor)
        with world.tls() as peer:
            peer.send(b"MAIL FROM:<a@b.test>\r\n")
            world.said(peer, b"\r\n")
            assert peer.data == b"503 5.5.1 say EHLO first\r\n"
            peer.send(START + b"x\r\n.\r\nQUIT\r\n")
            assert peer.read_to_end() == "EOF"
            assert b"STARTTLS" not in peer.data
            assert [line[:3] for line in peer.data.splitlines() if line[3:4] == b" "][1:] == [
                *[b"250"] * 3,
                b"354",
                b"250",
                b"221",
            ]
            peer.end()
        assert [message.content for message in world.sink.messages] == [b"x\r\n"]
        turn_until(reactor, lambda: not reactor.connections)


def test_what_comes_in_the_clear_after_the_220_fails_the_handshake(caplog):
    """Nothing of it is obeyed, and the log says whose handshake it was."""
    with Reactor() as reactor:
        world = Secured(reactor)
        with world.peer as peer:
            peer.send(START + b"forged\r\n.\r\n")
            peer.fin()
            peer.read_to_end()
        turn_until(reactor, lambda: not reactor.connections)
        assert not world.sink.messages
    assert "the TLS handshake with 127.0.0.1 failed: [SSL" in caplog.text


def test_a_drain_during_the_handshake_says_421_under_tls():
    """Nothing more is said in the clear."""
    with Reactor() as reactor:
        world = Secured(reactor)
        reactor.call_soon(reactor.drain, 20.0)
        reactor.run_once(0)
        with world.tls() as peer:
            assert peer.read_to_end() == "EOF"
            assert peer.data == b"421 4.3.2 shutting down\r\n"
            peer.end()
            turn_until(reactor, lambda: reactor.drained is not None and reactor.drained.finished)
        assert reactor.drained.clean


def test_a_context_for_the_other_side_is_refused_before_anybody_calls():
    """Where it was made, and not to each client."""
    with Reactor() as reactor, pytest.raises(ValueError, match="for the other side"):
        smtpsink.serve(reactor, "127.0.0.1", 0, tls=client_context())


# As a process, with real clients


def mail(subject: str = "hello", body: str = "one\n.\n..two\n") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@b.test", "c@d.test", subject
    made.set_content(body)
    return made


def files(directory) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.iterdir())]


def test_smtplib_sends_and_the_message_is_printed_and_kept(run, tmp_path):
    """Several messages over one connection, dots and all; SIGTERM then ends with status 0."""
    server = run("smtpsink", "--port", "0", "--dir", str(tmp_path))
    with smtplib.SMTP("127.0.0.1", server.port(), timeout=PATIENCE) as client:
        for number in range(3):
            assert client.send_message(mail(f"number {number}")) == {}
        assert client.noop()[0] == 250
    printed = server.read_until(b"END MESSAGE", 3).decode()
    assert printed.count("MESSAGE FOLLOWS") == 3
    for number, kept in enumerate(files(tmp_path)):
        assert kept.startswith(b"X-Peer: 127.0.0.1\r\nX-MailFrom: a@b.test\r\nX-RcptTo: c@d.test\r\n")
        assert f"Subject: number {number}\r\n".encode() in kept
        assert kept.endswith(b"\r\n\r\none\r\n.\r\n..two\r\n")
    assert server.stop() == 0
    assert server.errors == ""


def test_smtplib_sends_utf_8(run, tmp_path):
    """SMTPUTF8 and 8BITMIME are offered and used."""
    server = run("smtpsink", "--port", "0", "--dir", str(tmp_path))
    letter = mail("grüße")
    letter.replace_header("To", "zoë@d.test")
    with smtplib.SMTP("127.0.0.1", server.port(), timeout=PATIENCE) as client:
        client.send_message(letter)
    (kept,) = files(tmp_path)
    assert "X-RcptTo: zoë@d.test\r\n".encode() in kept
    assert "Subject: grüße\r\n".encode() in kept
    assert "mail options: ['SIZE=" in server.read_until(b"END MESSAGE").decode()
    assert server.stop() == 0


def test_smtplib_is_told_what_is_too_big(run):
    """552 to the announced size, before anything is sent."""
    server = run("smtpsink", "--port", "0", "--size-limit", "1000")
    with smtplib.SMTP("127.0.0.1", server.port(), timeout=PATIENCE) as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.send_message(mail(body="x\n" * 1000))
        assert refused.value.smtp_code == 552
    assert server.stop() == 0


def test_many_clients_at_once_get_their_messages_through(run, tmp_path):
    """Each message is printed in one piece."""
    server = run("smtpsink", "--port", "0", "--dir", str(tmp_path))
    port = server.port()

    def send(number: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.send_message(mail(f"number {number}", f"{number} " * 10 + "\n"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    printed = server.read_until(b"END MESSAGE", 12).decode()
    parts = printed.split("---------- MESSAGE FOLLOWS ----------\n")[1:]
    assert len(parts) == len(files(tmp_path)) == 12
    assert all(part.endswith("------------ END MESSAGE ------------\n") for part in parts)
    assert server.stop() == 0


def test_a_drain_ends_although_nobody_reads_what_is_printed(run):
    """A message that is stuck in a full pipe is lost, and told; it holds up neither the drain nor the program's end."""
    server = run("smtpsink", "--port", "0", "--drain-timeout", "0.1")
    with socket.create_connection(("127.0.0.1", server.port()), PATIENCE) as client:
        client.sendall(b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
        client.sendall((b"x" * 900 + b"\r\n") * 300 + b".\r\n")  # more than a pipe holds
        server.read_until(b"MESSAGE FOLLOWS")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 1
    assert "stuck on its way to stdout" in server.errors


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_curl_sends_a_file(run, tmp_path, where):
    """To two recipients; the file arrives as it is. Over a Unix socket the peer has no address."""
    (tmp_path / "kept").mkdir()
    letter = tmp_path / "letter.txt"
    letter.write_bytes(b"Subject: curl\r\n\r\n.dot\r\nend\r\n")
    target = ["--unix", str(tmp_path / "socket")] if where == "unix" else ["--port", "0"]
    server = run("smtpsink", *target, "--dir", str(tmp_path / "kept"), "--trace")
    if where == "unix":
        server.listening()
        address = ["--unix-socket", str(tmp_path / "socket"), "smtp://localhost/client.test"]
    else:
        address = [f"smtp://127.0.0.1:{server.port()}/client.test"]
    envelope = ["--mail-from", "a@b.test", "--mail-rcpt", "c@d.test", "--mail-rcpt", "e@f.test"]
    sent = subprocess.run(
        ["curl", "-sS", *address, *envelope, "-T", str(letter)],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (sent.returncode, sent.stderr) == (0, b"")
    peer = b"unix" if where == "unix" else b"127.0.0.1"
    (kept,) = files(tmp_path / "kept")
    assert kept == (
        b"X-Peer: %b\r\nX-MailFrom: a@b.test\r\nX-RcptTo: c@d.test\r\nX-RcptTo: e@f.test\r\n" % peer
        + letter.read_bytes()
    )
    # Not before: curl may close without reading the answer to its QUIT, which is then lost.
    wait_for(lambda: "#1 closed" in server.errors, "it did not end")
    assert server.stop() == 0


@pytest.fixture
def pem(tmp_path) -> tuple[str, str]:
    """A server's certificate with its key, and who vouches for it."""
    both, trusted = tmp_path / "both.pem", tmp_path / "trusted.pem"
    both.write_bytes(certificate("localhost").private_key_and_cert_chain_pem.bytes())
    trusted.write_bytes(authority().cert_pem.bytes())
    return str(both), str(trusted)


@pytest.mark.parametrize("at_once", [False, True], ids=["STARTTLS", "at once"])
def test_smtplib_sends_under_tls(run, pem, at_once):
    """After starttls(), which it may ask for once; or from the first byte, where it is not offered."""
    both, trusted = pem
    server = run("smtpsink", "--port", "0", "--trace", "--tls-cert", both, *["--tls-at-once"] * at_once)
    context = ssl.create_default_context(cafile=trusted)
    if at_once:
        client = smtplib.SMTP_SSL("localhost", server.port(), timeout=PATIENCE, context=context)
    else:
        client = smtplib.SMTP("localhost", server.port(), timeout=PATIENCE)
        client.ehlo()
        assert client.has_extn("starttls")
        assert client.starttls(context=context)[0] == 220
    with client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.docmd("STARTTLS")[0] == 503
        assert client.send_message(mail("secret")) == {}
    assert b"Subject: secret" in server.read_until(b"END MESSAGE")
    # Not before: smtplib closes without reading our close_notify, which is a reset.
    wait_for(lambda: "#1 closed" in server.errors, "it did not end")
    assert server.stop() == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("trusts", [True, False], ids=["trusting", "not trusting"])
def test_curl_demands_tls(run, tmp_path, pem, trusts):
    """With --ssl-reqd; if it does not trust the certificate, nothing was sent."""
    both, trusted = pem
    letter = Path(tmp_path, "letter.txt")
    letter.write_bytes(b"Subject: curl\r\n\r\nsecret\r\n")
    server = run("smtpsink", "--port", "0", "--tls-cert", both, "--trace")
    trust = ["--cacert", trusted] if trusts else []
    envelope = ["--mail-from", "a@b.test", "--mail-rcpt", "c@d.test"]
    sent = subprocess.run(
        ["curl", "-sS", "--ssl-reqd", *trust, f"smtp://localhost:{server.port()}", *envelope, "-T", str(letter)],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (sent.returncode == 0) == trusts, sent.stderr
    if trusts:
        assert b"\nsecret\n" in server.read_until(b"END MESSAGE")
    else:
        # curl(1): the certificate is not good. Some versions leave in the handshake, others right behind it.
        assert sent.returncode == 60
    # Not before: curl may close without reading our close_notify, which is a reset.
    wait_for(lambda: "#1 closed" in server.errors, "it did not end")
    assert server.stop() == 0
    assert b"secret" not in server.output or trusts


def test_a_refusal_reaches_a_client_that_is_still_sending(run):
    """A browser that was lured here posts a megabyte: 421 arrives whole, and nothing of it is obeyed."""
    server = run("smtpsink", "--port", "0")
    with server.connect() as client:
        request = b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.test>\r\n" + b"x" * 1_000_000
        client.sendall(request)
        heard = b""
        while data := client.recv(65536):
            heard += data
    assert [line[:3] for line in heard.splitlines()] == [b"220", b"421"]
    assert server.stop() == 0


def test_a_browsers_request_is_not_obeyed_however_long_its_first_line_is(run):
    """What fits into no command is skipped; the next line of the request's head ends it."""
    server = run("smtpsink", "--port", "0")
    with server.connect() as client:
        head = b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        client.sendall(head + START)
        heard = b""
        while data := client.recv(65536):
            heard += data
    assert [line[:3] for line in heard.splitlines()] == [b"220", b"500", b"421"]
    assert server.stop() == 0
    assert server.output.count(b"\n") == 1  # where it listens


def test_no_file_is_there_before_the_whole_message(run, tmp_path):
    """A client is in the middle of a message: the directory is empty, also after it was killed there."""
    server = run("smtpsink", "--port", "0", "--dir", str(tmp_path))
    with server.connect() as client:
        client.sendall(START + b"half\r\n")
        heard = b""
        while b"354" not in heard:
            heard += client.recv(1000)
        assert os.listdir(tmp_path) == []
    wait_for(lambda: "in the middle of a message" in server.errors, "the end was not noticed")
    assert os.listdir(tmp_path) == []
    assert server.stop() == 0


def test_what_cannot_be_kept_is_not_shown(run, tmp_path):
    """451, and standard output has nothing of it; a message before and one behind it are shown whole."""
    place = tmp_path / "kept"
    place.mkdir()
    server = run("smtpsink", "--port", "0", "--dir", str(place))
    with smtplib.SMTP("127.0.0.1", server.port(), timeout=PATIENCE) as client:
        client.send_message(mail("first"))
        place.rename(tmp_path / "away")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.send_message(mail("refused", "secret\n"))
        assert refused.value.smtp_code == 451
        (tmp_path / "away").rename(place)
        client.send_message(mail("third"))
    assert server.stop() == 0
    assert server.output.count(b"MESSAGE FOLLOWS") == server.output.count(b"END MESSAGE") == 2
    assert b"secret" not in server.output
    assert "secret" not in server.errors
    assert len(files(place)) == 2


def test_what_cannot_be_shown_is_not_kept(run, tmp_path):
    """Whoever read standard output has gone: 451, and no file."""
    server = run("smtpsink", "--port", "0", "--dir", str(tmp_path))
    with smtplib.SMTP("127.0.0.1", server.port(), timeout=PATIENCE) as client:
        server.process.stdout.close()
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.send_message(mail())
        assert refused.value.smtp_code == 451
    assert os.listdir(tmp_path) == []
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0


def test_a_message_for_which_there_is_no_room_leaves_nothing_to_be_shown_later(run, tmp_path):
    """Standard output is a file that is full: nothing of the message stays, and nothing comes with the next one."""
    out = tmp_path / "out"
    command = f"ulimit -f 8; exec {sys.executable} -W error -m samples.smtpsink --port 0"
    with out.open("wb") as file:
        server = run("", command=["bash", "-c", command], stdout=file)
    wait_for(lambda: out.read_bytes().endswith(b"\n"), "it does not listen")
    before = out.read_bytes()
    port = int(before.rpartition(b":")[2])
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.send_message(mail("too much", "secret\n" * 4000))
        assert refused.value.smtp_code == 451
        assert out.read_bytes() == before
        client.send_message(mail("little"))
    assert server.stop() == 0
    told = out.read_bytes()
    assert (told.count(b"END MESSAGE"), told.count(b"secret")) == (1, 0)


def greeted(clients: list[socket.socket]) -> list[socket.socket]:
    """Those that the server has let in by now."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(0)}
    return [client for client in clients if client.fileno() in ready]


@pytest.mark.parametrize("keeps", [False, True], ids=["only shown", "kept"])
def test_an_idle_crowd_costs_nobody_a_message(run, tmp_path, keeps):
    """More clients than descriptors: those that would leave none wait in line, and the first message gets through."""
    more = f"--dir {tmp_path}" if keeps else ""
    command = f"ulimit -n 48; exec {sys.executable} -W error -m samples.smtpsink --port 0 {more}"
    server = run("", command=["bash", "-c", command])
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(smtplib.SMTP("127.0.0.1", server.port(), timeout=PATIENCE))
        crowd = [stack.enter_context(server.connect()) for _ in range(70)]
        wait_for(lambda: len(greeted(crowd)) >= 15, "the crowd was not let in")
        for number in range(3):
            client.send_message(mail(f"number {number}"))
        assert len(greeted(crowd)) == 15
        assert len(files(tmp_path)) == (3 if keeps else 0)
        for one in greeted(crowd):
            one.close()
        waiting = [one for one in crowd if one.fileno() >= 0]
        wait_for(lambda: len(greeted(waiting)) == 15, "those in line were not let in")
        assert server.errors == ""


@pytest.mark.parametrize(("places", "monitored", "each"), [(1, True, 16), (2, False, 40), (4, True, 4)])
def test_all_places_together_leave_descriptors_for_the_work(run, places, monitored, each):
    """Several listeners share what there is, and a monitor's pages have theirs."""
    if monitored:
        pytest.importorskip("h11")
    arguments = ["samples.smtpsink", "--fd", "systemd", *(["--monitor", "0"] if monitored else [])]
    script = (
        "import os, sys\n"
        "high = [os.dup2(int(fd), 50 + n) for n, fd in enumerate(sys.argv[1:])]\n"
        "[os.dup2(fd, 3 + n) for n, fd in enumerate(high)]\n"
        "[os.close(fd) for fd in high]\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)))\n"
        f"os.execv(sys.executable, [sys.executable, '-m', *{arguments}])\n"
    )
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(places)]
        fds = [sock.fileno() for sock in sockets]
        command = f'ulimit -n 112; exec {sys.executable} -c "$0" ' + " ".join(map(str, fds))
        server = run("", command=["bash", "-c", command, script], pass_fds=fds)
        server.read_until(b"listening on", places)
        client = stack.enter_context(smtplib.SMTP(*sockets[0].getsockname(), timeout=PATIENCE))
        crowds = []
        for sock in sockets:
            crowd = [stack.enter_context(socket.create_connection(sock.getsockname(), PATIENCE)) for _ in range(45)]
            crowds.append(crowd)
        let_in = [each - 1, *[each] * (places - 1)]
        for crowd, count in zip(crowds, let_in, strict=True):
            wait_for(lambda crowd=crowd, count=count: len(greeted(crowd)) >= count, "the crowds were not let in")
        client.send_message(mail())
        assert [len(greeted(crowd)) for crowd in crowds] == let_in
        assert server.errors == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--dir", "/nonexistent/place"], "/nonexistent/place"),
        (["--size-limit", "0"], "0"),
        (["--line-limit", "5"], "5"),
        (["--tls-at-once"], "--tls-at-once needs --tls-cert"),
        (["--tls-cert", "/nonexistent/chain.pem"], "/nonexistent/chain.pem"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(capsys, arguments, word):
    """Status 2, and the line names it."""
    with pytest.raises(SystemExit) as leaving:
        smtpsink.main(arguments)
    assert leaving.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert word in printed.err
