"""A page in one file: its style, its script and all, and a policy that lets nothing else run, load or be sent anywhere.

The policy names the script and the style by their digests. So a line that got into the page as markup could not run,
and what the page may talk to is only where it came from. No page of another site keeps a hold on its window either: it
could send it to another address, whose fragment the page reads.
"""

from __future__ import annotations

import base64
import hashlib
import re

from samples.web.messages import Response


def page_response(page: bytes, *fields: tuple[str, str]) -> Response:
    """The page, with its policy, and with these fields."""
    policy = (
        "default-src 'none'",
        f"script-src {_digests(page, b'script')}",
        f"style-src {_digests(page, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    about = (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", "; ".join(policy)),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    )
    return Response(200, (*about, *fields), page)


def _digests(page: bytes, element: bytes) -> str:
    found = re.findall(rb"<%s>(.*?)</%s>" % (element, element), page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found)
