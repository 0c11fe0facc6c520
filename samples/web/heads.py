"""A request's head as h11 read it: what it asks, and what is wrong with it. No sockets, no time.

What is wrong is a status and the reason in words. Whoever asked is told so once, and the connection ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs
import h11

from reactor.options import KiB
from samples.web.messages import Request, Response

Wrong = tuple[int, str]

# RFC 9112, 2.2: a server ignores empty lines before a request-line. h11, which reads the rest, takes LF for CRLF, too.
_EMPTY_LINES = re.compile(rb"(?:\r?\n)*")
# RFC 9110, 7.2, and RFC 3986, 3.2.2 (with RFC 6874's zones): an address in brackets or a name, then perhaps a port.
_NAME = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
_ADDRESS = r"\[(?:[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?|v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"
_HOST = re.compile(rf"(?:(?:{_NAME}|{_ADDRESS})(?::[0-9]*)?)?")


@attrs.frozen(kw_only=True)
class Settings:
    """How much, and how long. Sizes in bytes, times in seconds."""

    # Request line and fields together. Browsers with many cookies come near 8 KiB; nginx and Apache allow as much.
    head_bytes: int = 16 * KiB
    # RFC 9112, 3: at least 8000.
    target_bytes: int = 8000
    # More than that is answered 413.
    body_bytes: int = 64 * KiB
    # From a head's first byte to its last. A second is usual.
    head_seconds: float = 10.0
    # From the head's end to the body's: the allowed size over a slow line.
    body_seconds: float = 30.0
    # Without a request, also before the first. Browsers keep theirs for a minute or two, and ask anew when it has gone.
    idle_seconds: float = 60.0
    # Asked when a body is coming and nothing of it was read: what this returns is the answer, None goes on. A client is
    # never invited to send content with GET and HEAD, for it means nothing there (RFC 9110, 9.3.1).
    early: Callable[[Request], Response | None] | None = None


def without_empty_lines(data: bytes) -> bytes:
    """What is left of `data` behind the empty lines that it begins with: b"\\r" is perhaps half of one more."""
    match = _EMPTY_LINES.match(data)
    assert match is not None
    return data[match.end() :]


def request_of(event: h11.Request) -> Request:
    """What the head asks; the body is not there yet."""
    fields: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    if event.http_version < b"1.1":
        fields.pop("upgrade", None)  # RFC 9110, 7.8
    request = Request(event.method.decode("ascii"), event.target.decode("ascii"), fields)
    if request.authority is not None:
        fields["host"] = request.authority  # RFC 9112, 3.2.2: whatever the field says
    return request


def wrong_in(event: h11.Request, request: Request, settings: Settings) -> Wrong | None:
    """What is wrong with a head that h11 could read, and that asks `request`."""
    fields = request.fields
    if len(request.target) > settings.target_bytes:
        return _target_too_long(settings)
    if sum(len(name) + len(value) + 4 for name, value in event.headers) > settings.head_bytes:
        return _fields_too_long(settings)
    if not event.http_version.startswith(b"1."):
        return 505, "HTTP/1.1 is spoken here"
    if not _names_a_host(event, request):
        return 400, "the request must name a host, with or without a port"
    if "transfer-encoding" in fields and ("content-length" in fields or event.http_version < b"1.1"):
        # RFC 9112, 6.1: whoever is between us and the client may see the end of the request elsewhere than we do.
        return 400, "Transfer-Encoding goes neither with Content-Length nor with HTTP/1.0"
    if fields.get("expect", "100-continue").lower() != "100-continue":
        return 417, "only 100-continue can be expected here"
    return None


def _names_a_host(event: h11.Request, request: Request) -> bool:
    """RFC 9112, 3.2. h11 sees to it that there are not two Host fields."""
    authority = request.authority
    if authority is None:
        field = request.fields.get("host")
    else:
        field = next((value.decode("latin-1") for name, value in event.headers if name == b"host"), None)
        if not authority or not _HOST.fullmatch(authority):
            return False
    return event.http_version < b"1.1" if field is None else _HOST.fullmatch(field) is not None


def announced(request: Request) -> int | None:
    """How many bytes of content will come; None: in chunks, and only the last one will tell."""
    return None if "transfer-encoding" in request.fields else int(request.fields.get("content-length", "0"))


def unreadable(exc: h11.RemoteProtocolError, unread: bytes, settings: Settings, *, in_head: bool) -> Wrong:
    """What is wrong with `unread`, of which h11 makes nothing. A long target and long fields are the same to it."""
    if exc.error_status_hint != 431:
        return exc.error_status_hint, str(exc)
    in_first_line = in_head and b"\n" not in unread.lstrip(b"\r\n")
    return _target_too_long(settings) if in_first_line else _fields_too_long(settings)


def _target_too_long(settings: Settings) -> Wrong:
    return 414, f"the target has more than {settings.target_bytes} bytes"


def _fields_too_long(settings: Settings) -> Wrong:
    return 431, f"the fields have more than {settings.head_bytes} bytes"
