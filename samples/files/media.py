"""What a file is called to a browser: its media type, from its name's suffix.

The table is the standard library's, not the machine's, and mended below, so that a file has one type everywhere. Text
is taken for UTF-8. A compressed file is that, to be kept as it is: were it announced as compressed *content* of another
type, a browser would unpack what somebody meant to download.
"""

from __future__ import annotations

import mimetypes
from pathlib import PurePath

_UNKNOWN = "application/octet-stream"

# What the oldest supported Python does not know, or by an older name, or what a later one calls differently. The names
# are IANA's where it has one for the format.
_MENDED = {
    # Text that a browser shows, and what programs read
    "application/toml": "toml",
    "application/yaml": "yaml yml",
    "text/calendar": "ics",
    "text/javascript": "cjs js mjs",
    "text/markdown": "markdown md",
    "text/plain": "cfg conf cpp go hpp ini java log rs sql text",
    "text/vcard": "vcf",
    "text/vtt": "vtt",
    "text/x-diff": "diff patch",
    "text/x-rst": "rst",
    "application/atom+xml": "atom",
    "application/geo+json": "geojson",
    "application/json": "json map",
    "application/jsonl": "jsonl",
    "application/ld+json": "jsonld",
    "application/manifest+json": "webmanifest",
    "application/rss+xml": "rss",
    "application/wasm": "wasm",
    "application/x-ndjson": "ndjson",
    "application/xhtml+xml": "xht xhtml",
    "application/xslt+xml": "xslt",
    # Sound and pictures
    "application/dash+xml": "mpd",
    "application/ogg": "ogx",
    "application/vnd.apple.mpegurl": "m3u8",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/matroska": "mka",
    "audio/midi": "mid midi",
    "audio/mp4": "m4a m4b",
    "audio/ogg": "oga ogg opus spx",
    "audio/wav": "wav",
    "audio/webm": "weba",
    "image/apng": "apng",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/jpeg": "jfif",
    "image/jxl": "jxl",
    "image/vnd.adobe.photoshop": "psd",
    "image/webp": "webp",
    "model/gltf+json": "gltf",
    "model/gltf-binary": "glb",
    "model/stl": "stl",
    "video/3gpp": "3gp",
    "video/3gpp2": "3g2",
    "video/matroska": "mkv",
    "video/mp2t": "ts",
    "video/mp4": "m4v",
    "video/ogg": "ogv",
    # Fonts
    "application/vnd.ms-fontobject": "eot",
    "font/collection": "ttc",
    "font/otf": "otf",
    "font/ttf": "ttf",
    "font/woff": "woff",
    "font/woff2": "woff2",
    # Documents and archives
    "application/epub+zip": "epub",
    "application/java-archive": "jar",
    "application/rtf": "rtf",
    "application/vnd.android.package-archive": "apk",
    "application/vnd.debian.binary-package": "deb",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.rar": "rar",
    "application/x-7z-compressed": "7z",
    "application/x-bittorrent": "torrent",
    "application/x-rpm": "rpm",
    "application/zstd": "zst",
}
_COMPRESSED = {
    "br": "application/x-brotli",
    "bzip2": "application/x-bzip2",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
}

_TABLE = mimetypes.MimeTypes()
for _type, _suffixes in _MENDED.items():
    for _suffix in _suffixes.split():
        _TABLE.add_type(_type, f".{_suffix}")


def content_type(name: str) -> str:
    """The value of Content-Type for a file of that name."""
    # The table is asked about URLs, so it is shown no more of the name than can matter.
    kind, coding = _TABLE.guess_type("x" + "".join(PurePath(name).suffixes[-2:]))
    if coding is not None:
        return _COMPRESSED.get(coding, _UNKNOWN)
    if kind is None:
        return _UNKNOWN
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
