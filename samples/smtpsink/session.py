"""SMTP as a server speaks it (RFC 5321): a command in, a reply out; no sockets, no files.

A session greets, obeys commands until DATA, takes the lines of a message until a lone dot, and so on until QUIT. What
a command may follow is asked in the command itself (503); the table at the end says which commands there are.

Lines come here without their CR LF, and only CR LF ends one. That is what SMTP smuggling is about: who takes a bare LF
for the end of a line sees the end of a message, and another one behind it, where the sender's server saw neither.

Nothing that a client sent is repeated in a reply: a reply is one line of ASCII.

STARTTLS (RFC 3207) is obeyed here as far as words go: `starting_tls` is true then, and whoever has the connection does
the rest and calls `secured`. What the client had said until then is forgotten: anybody could have said it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from samples.common.foreign import is_foreign_command

# RFC 5321, 4.5.3.1.4 and .6: what every server must take, with its CR LF. MAIL may be longer by its parameters: SIZE
# (RFC 1870), BODY (RFC 6152) and SMTPUTF8 (RFC 6531).
COMMAND_BYTES = 512 + 26 + 17 + 10
LINE_BYTES = 1000
# The same, for paths and their local parts (4.5.3.1.1 to .3). At least 100 recipients must be taken (.8).
_PATH_BYTES, _LOCAL_BYTES, _DOMAIN_BYTES = 256, 64, 255
_MOST_RECIPIENTS = 1000
# Then the client is lost, or is trying things out.
_MOST_ERRORS = 20

# A source route is read and ignored (4.1.1.3); a quoted local part may hold anything.
_PATH = re.compile(r'[ ]*<(?:@[^:<>\s"]+:)?((?:"(?:[^"\\]|\\.)*"|[^"<>\s])*)>(?: +(.*))?', re.DOTALL)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")
_KNOWN_ELSEWHERE = ("AUTH", "BDAT", "ETRN", "EXPN", "SAML", "SEND", "SOML", "TURN")


@attrs.frozen
class Reply:
    """A code and its lines. Above 400 the client was refused; 221 and 421 are the last words."""

    code: int
    lines: tuple[str, ...]

    def encode(self) -> bytes:
        *first, last = self.lines
        text = [f"{self.code}-{line}\r\n" for line in first] + [f"{self.code} {last}\r\n"]
        return "".join(text).encode("ascii", "replace")  # a machine's name might not be ASCII

    @property
    def ends(self) -> bool:
        return self.code in (221, 421)


def reply(code: int, *lines: str) -> Reply:
    return Reply(code, lines)


@attrs.frozen
class Message:
    """One message and its envelope. `content` is as it was sent: lines that end with CR LF, dots unstuffed."""

    peer: str
    sender: str
    recipients: tuple[str, ...]
    options: tuple[str, ...]
    content: bytes


class _Refused(Exception):
    """A command that is not obeyed; carries the reply."""

    def __init__(self, code: int, line: str) -> None:
        self.reply = reply(code, line)


class Session:
    """One client's conversation. With `offers_tls` it may ask for STARTTLS; `under_tls`: it speaks TLS already."""

    def __init__(
        self, name: str, peer: str, size_limit: int, *, offers_tls: bool = False, under_tls: bool = False
    ) -> None:
        self._name = name
        self._peer = peer
        self._size_limit = size_limit
        self._offers_tls = offers_tls and not under_tls
        self._under_tls = under_tls
        self._extended: bool | None = None  # EHLO, HELO, or neither yet
        self._errors = 0
        # Lines are taken now, not commands.
        self.in_message = False
        # The client was told to begin the handshake: nothing is obeyed until `secured`.
        self.starting_tls = False
        self._forget()

    def _forget(self) -> None:
        self._sender: str | None = None
        self._options: tuple[str, ...] = ()
        self._recipients: list[str] = []
        self._content = bytearray()
        self._refusal: Reply | None = None

    def greeting(self) -> Reply:
        return reply(220, f"{self._name} ESMTP smtpsink: whatever comes is shown, and sent to nobody")

    def obey(self, line: bytes) -> Reply:
        """One command."""
        assert not self.starting_tls
        verb, _, rest = line.partition(b" ")
        try:
            word = verb.decode("ascii", "replace").upper()
            if is_foreign_command(line):
                raise _Refused(421, "4.7.0 this is a mail server")
            obey = COMMANDS.get(word)
            if obey is None:
                if word in _KNOWN_ELSEWHERE:
                    raise _Refused(502, "5.5.1 not implemented here")
                raise _Refused(500, "5.5.1 no such command; HELP names those there are")
            try:
                text = rest.decode("utf-8")
            except UnicodeDecodeError:
                raise _Refused(501, "5.5.4 not UTF-8") from None
            return obey(self, text)
        except _Refused as refused:
            return self.refused(refused.reply)

    def refused(self, answer: Reply) -> Reply:
        """Counts what was wrong; after too much of it, the last words instead."""
        self._errors += 1
        return answer if self._errors < _MOST_ERRORS else reply(421, "4.7.0 too many errors")

    # Commands

    def _hello(self, text: str, extended: bool) -> None:
        if not text.strip():
            raise _Refused(501, "5.5.4 say who you are: EHLO name")
        self._extended = extended
        self._forget()

    def _ehlo(self, text: str) -> Reply:
        self._hello(text, extended=True)
        size = f"SIZE {self._size_limit}"
        tls = ("STARTTLS",) if self._offers_tls else ()
        return reply(250, self._name, "PIPELINING", size, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", *tls, "HELP")

    def _helo(self, text: str) -> Reply:
        self._hello(text, extended=False)
        return reply(250, self._name)

    def _mail(self, text: str) -> Reply:
        if self._extended is None:
            raise _Refused(503, "5.5.1 say EHLO first")
        if self._sender is not None:
            raise _Refused(503, "5.5.1 there is a sender already; RSET begins anew")
        sender, words = _path(text, "FROM:", "MAIL FROM:<address>")
        options = self._parameters(words)
        if not sender.isascii() and "SMTPUTF8" not in options:
            raise _Refused(553, "5.6.7 an address that is not ASCII needs SMTPUTF8")
        self._sender, self._options = sender, options
        return reply(250, "2.1.0 sender taken")

    def _parameters(self, words: list[str]) -> tuple[str, ...]:
        if words and not self._extended:
            raise _Refused(555, "5.5.4 parameters need EHLO, not HELO")
        taken = []
        for word in words:
            parts = _PARAMETER.fullmatch(word)
            if parts is None:
                raise _Refused(501, "5.5.4 a parameter is KEYWORD or KEYWORD=value")
            keyword, value = parts[1].upper(), (parts[2] or "").upper()
            if keyword == "SIZE":
                if not (value.isdigit() and len(value) <= 20):
                    raise _Refused(501, "5.5.4 SIZE is a number of bytes")
                if int(value) > self._size_limit:
                    raise _Refused(552, f"5.3.4 a message has at most {self._size_limit} bytes")
            elif not ((keyword == "BODY" and value in ("7BIT", "8BITMIME")) or (keyword == "SMTPUTF8" and not value)):
                raise _Refused(555, "5.5.4 of the parameters there are SIZE, BODY and SMTPUTF8")
            taken.append(f"{keyword}={value}" if value else keyword)
        return tuple(taken)

    def _rcpt(self, text: str) -> Reply:
        if self._sender is None:
            raise _Refused(503, "5.5.1 say MAIL first")
        recipient, words = _path(text, "TO:", "RCPT TO:<address>")
        if not recipient:
            raise _Refused(501, "5.1.3 a recipient has a name")
        if words:
            raise _Refused(555, "5.5.4 RCPT takes no parameters here")
        if not recipient.isascii() and "SMTPUTF8" not in self._options:
            raise _Refused(553, "5.6.7 an address that is not ASCII needs SMTPUTF8")
        if len(self._recipients) >= _MOST_RECIPIENTS:
            raise _Refused(452, f"4.5.3 a message has at most {_MOST_RECIPIENTS} recipients")
        self._recipients.append(recipient)
        return reply(250, "2.1.5 recipient taken")

    def _data(self, text: str) -> Reply:
        _nothing(text)
        if not self._recipients:
            raise _Refused(503, "5.5.1 say MAIL and RCPT first")
        self.in_message = True
        return reply(354, "go on, and end with a dot on a line of its own")

    def _rset(self, text: str) -> Reply:
        _nothing(text)
        self._forget()
        return reply(250, "2.0.0 forgotten")

    def _noop(self, text: str) -> Reply:
        return reply(250, "2.0.0 done")

    def _vrfy(self, text: str) -> Reply:
        if not text.strip():
            raise _Refused(501, "5.5.4 whom?")
        return reply(252, "2.5.2 mail to anybody is taken")

    def _help(self, text: str) -> Reply:
        return reply(214, "2.0.0 " + " ".join(word for word in COMMANDS if word != "STARTTLS" or self._offers_tls))

    def _starttls(self, text: str) -> Reply:
        if self._under_tls:
            raise _Refused(503, "5.5.1 this is TLS already")
        if not self._offers_tls:
            raise _Refused(502, "5.5.1 there is no certificate here")
        _nothing(text)
        if not self._extended:
            raise _Refused(503, "5.5.1 say EHLO first")
        self.starting_tls = True
        return reply(220, "2.0.0 go ahead")

    def secured(self) -> None:
        """From here on everything comes under TLS, and the conversation begins anew, without a greeting."""
        self.starting_tls = self._offers_tls = False
        self._under_tls = True
        self._extended = None
        self._forget()

    def _quit(self, text: str) -> Reply:
        _nothing(text)
        return reply(221, "2.0.0 bye")

    # Messages

    def take(self, line: bytes) -> Message | Reply | None:
        """One line of a message. At the lone dot: the message, or the reply that refuses it."""
        if line == b".":
            return self._finish()
        line = line.removeprefix(b".")  # dot-unstuffing: 4.5.2
        if self._refusal is None and len(self._content) + len(line) + 2 > self._size_limit:
            self.refuse_message(reply(552, f"5.3.4 a message has at most {self._size_limit} bytes"))
        if self._refusal is None:
            self._content += line
            self._content += b"\r\n"
        return None

    def refuse_message(self, answer: Reply) -> None:
        """What comes of it is dropped; the answer is given where it ends."""
        self._refusal = self._refusal or answer
        self._content.clear()

    def _finish(self) -> Message | Reply:
        assert self._sender is not None
        done: Message | Reply = self._refusal or Message(
            self._peer, self._sender, tuple(self._recipients), self._options, bytes(self._content)
        )
        self.in_message = False
        self._forget()
        return done


COMMANDS: dict[str, Callable[[Session, str], Reply]] = {
    "EHLO": Session._ehlo,
    "HELO": Session._helo,
    "MAIL": Session._mail,
    "RCPT": Session._rcpt,
    "DATA": Session._data,
    "RSET": Session._rset,
    "NOOP": Session._noop,
    "VRFY": Session._vrfy,
    "HELP": Session._help,
    "STARTTLS": Session._starttls,
    "QUIT": Session._quit,
}


def _path(text: str, keyword: str, form: str) -> tuple[str, list[str]]:
    """The address in `FROM:<address> parameters`, and the parameters."""
    if text[: len(keyword)].upper() != keyword:
        raise _Refused(501, f"5.5.4 {form}")
    parts = _PATH.fullmatch(text, len(keyword))
    if parts is None:
        raise _Refused(501, f"5.1.7 {form}, with the brackets")
    address = parts[1]
    if not address.isprintable():
        raise _Refused(501, "5.1.7 an address has no control characters")
    local, _, domain = address.rpartition("@") if "@" in address else (address, "", "")
    limits = ((address, _PATH_BYTES - 2), (local, _LOCAL_BYTES), (domain, _DOMAIN_BYTES))
    if any(len(part.encode()) > limit for part, limit in limits):
        raise _Refused(501, "5.1.7 path too long")
    return address, (parts[2] or "").split()


def _nothing(text: str) -> None:
    if text.strip():
        raise _Refused(501, "5.5.4 that command takes nothing behind it")
