"""From bytes to clean lines; no sockets here.

Three steps, each bounded in memory and none confused by where one read ends and the next begins:

1. `Telnet` takes out what a telnet client says to the other telnet end, and answers it.
2. `Lines` cuts at newlines. A line over the limit is told as None, once, and skipped up to its newline.
3. `clean` removes what could drive another member's terminal: a member's text is never more than text.

Cutting comes before decoding: a newline byte is never part of another UTF-8 character, so a character that is split
over two reads is whole again when its line is.
"""

from __future__ import annotations

import unicodedata

# RFC 854: "interpret as command", and what may follow. No such byte occurs in UTF-8, so other clients lose nothing.
IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240


class Telnet:
    """Takes telnet's commands out of a stream. Every option is refused, so what is left is plain text."""

    def __init__(self) -> None:
        # What the last byte began: nothing, a command, an option's name (then the command), or a subnegotiation.
        self._command: int | None = None
        self._in_subnegotiation = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The text in it, and what to answer."""
        if self._command is None and not self._in_subnegotiation and IAC not in data:
            return data, b""
        text, answer = bytearray(), bytearray()
        for byte in data:
            self._take(byte, text, answer)
        return bytes(text), bytes(answer)

    def _take(self, byte: int, text: bytearray, answer: bytearray) -> None:
        command, self._command = self._command, None
        if command is None:
            if byte == IAC:
                self._command = IAC
            elif not self._in_subnegotiation:
                text.append(byte)
        elif command == IAC:
            if self._in_subnegotiation:
                self._in_subnegotiation = byte != SE
            elif byte == SB:
                self._in_subnegotiation = True
            elif WILL <= byte <= DONT:
                self._command = byte  # its option follows
            elif byte < SE:
                text += bytes((IAC, byte))  # not telnet at all, just a byte that no UTF-8 has
            elif byte == IAC:
                text.append(IAC)
        elif command == DO:
            # Also for "timing mark": without an answer, a telnet client shows nothing any more after Ctrl-C.
            answer += bytes((IAC, WONT, byte))
        elif command == WILL:
            answer += bytes((IAC, DONT, byte))


class Lines:
    """Cuts a stream into lines of at most `limit` bytes; LF and CR LF both end one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[str | None]:
        """The lines that are complete now; None for one that turned out to be too long."""
        lines: list[str | None] = []
        *pieces, rest = data.split(b"\n")
        for piece in pieces:
            self._add(piece, lines)
            if not self._skipping:
                lines.append(self._take_held())
            self._skipping = False
        self._add(rest, lines)
        return lines

    def end(self) -> str | None:
        """What stood after the last newline, if anything."""
        return self._take_held() or None

    def _add(self, piece: bytes, lines: list[str | None]) -> None:
        if self._skipping:
            return
        self._held += piece
        if len(self._held.removesuffix(b"\r")) > self._limit:
            self._held.clear()
            self._skipping = True
            lines.append(None)

    def _take_held(self) -> str:
        line = self._held.removesuffix(b"\r").decode("utf-8", "replace")
        self._held.clear()
        return line


def clean(text: str) -> str:
    """`text` without anything that controls a terminal or the direction of writing; a tab becomes a space.

    Removed are the categories Cc (C0, C1, so ESC and CSI too), Cf (U+202E and its like) and lone surrogates. Joiners
    are in Cf as well, so a composed emoji falls apart: visible, and harmless.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_clean_character, text))


def _clean_character(character: str) -> str:
    if character in "\t\u2028\u2029":
        return " "
    return "" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character
