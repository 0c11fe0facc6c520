"""What a file is called to a browser: its media type, from its name's suffix.

The table is the standard library's, not the machine's, and mended below, so that a file has one type everywhere. Text
is taken for UTF-8. A compressed file is that, to be kept as it is: were it announced as compressed *content* of another
type, a browser would unpack what somebody meant to download.
"""

from __future__ import annotations

import mimetypes
from pathlib import PurePath

_UNKNOWN = "application/octet-stream"

# What the oldest supported Python does not know, or by an older name.
_MENDED = {
    ".avif": "image/avif",
    ".js": "text/javascript",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_COMPRESSED = {
    "br": "application/x-brotli",
    "bzip2": "application/x-bzip2",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
}

_TABLE = mimetypes.MimeTypes()
for _suffix, _type in _MENDED.items():
    _TABLE.add_type(_type, _suffix)


def content_type(name: str) -> str:
    """The value of Content-Type for a file of that name."""
    # The table is asked about URLs, so it is shown no more of the name than can matter.
    kind, coding = _TABLE.guess_type("x" + "".join(PurePath(name).suffixes[-2:]))
    if coding is not None:
        return _COMPRESSED.get(coding, _UNKNOWN)
    if kind is None:
        return _UNKNOWN
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
