"""A browser that is connected to a server of a line protocol: nothing of what it sends is obeyed.

A web page can make a browser send a POST to any port of any machine that the browser reaches, with a body that the page
chooses. A server of lines would refuse the request's head line by line, and then obey the body. A browser sends nothing
before the request line. So each server of a line protocol here ends a connection whose first line is a request line. It
also ends one that begins with a TLS handshake, some bytes of which a page can choose as well.
"""

from __future__ import annotations

import re

# Whatever a page asks for, the browser's first request has one of them: others need an OPTIONS first.
_METHODS = rb"GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI"
_BEGINNING = re.compile(rb"(?:%s) " % _METHODS)
_END = re.compile(rb" HTTP/[0-9.]+\r?$")
# Of a request line however long: as much as the two expressions need.
_KEPT_BYTES = 16
_TLS_HANDSHAKE = b"\x16\x03"

# A request line or its beginning, a header field, a TLS record. Only for a protocol in which no command is like that.
_HEAD = re.compile(rb"(?:%s)(?: |$)|[!#-'*+.0-9A-Z^-z|~-]+:|\x16\x03" % _METHODS, re.IGNORECASE)


class FirstLine:
    """Looks at the first line of a connection, for a protocol in which people write what they like."""

    def __init__(self) -> None:
        self._start = self._last = b""
        self._over = False

    def is_foreign(self, data: bytes) -> bool:
        """Whether a browser speaks; `data` is what was read next. No line is to be taken from it then."""
        if self._over:
            return False
        line, newline, _ = data.partition(b"\n")
        self._start = (self._start + line[:_KEPT_BYTES])[:_KEPT_BYTES]
        self._last = (self._last + line[-_KEPT_BYTES:])[-_KEPT_BYTES:]
        if self._start.startswith(_TLS_HANDSHAKE):
            return True
        self._over = bool(newline)
        return self._over and bool(_BEGINNING.match(self._start) and _END.search(self._last))


def is_foreign_command(line: bytes) -> bool:
    """Whether a browser speaks, in a protocol of commands: a line of a request's head, which may have been cut off."""
    return bool(_HEAD.match(line))
