"""HTTP/1.1 for samples: h11 reads and writes the protocol, this joins it to a connection, and a *site* answers.

A site is a function from a `Request` to a `Response`; or to a `Stream`, whose content is written as time goes by; or to
an `Upgrade`, which hands the connection over to another protocol. Read it in this order:

1. `messages.py`    what is asked, and the three kinds of answers; no sockets, no h11.
2. `routes.py`      makes a site of a table: path, then method.
3. `page.py`        a page in one file, with a policy that lets nothing run but what is in it.
4. `heads.py`       a request's head as h11 read it, and what is wrong with it.
5. `connection.py`  one connection: in order, to the end, and bounded.
"""

from samples.web.connection import Http, serve
from samples.web.heads import Settings, announced
from samples.web.messages import Answer, Fields, Piece, Request, Response, Site, Stream, Upgrade, say
from samples.web.page import page_response
from samples.web.routes import KNOWN_METHODS, Routes

__all__ = [
    "KNOWN_METHODS",
    "Answer",
    "Fields",
    "Http",
    "Piece",
    "Request",
    "Response",
    "Routes",
    "Settings",
    "Site",
    "Stream",
    "Upgrade",
    "announced",
    "page_response",
    "say",
    "serve",
]
