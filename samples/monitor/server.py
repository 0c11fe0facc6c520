"""The monitor's site: the page, its news as server-sent events, JSON for `ps`, metrics, and orders for peers.

*Who may look.* It listens on 127.0.0.1 only, but any web page that a browser here shows can send requests to it. So a
request must name this machine (else a foreign name was made to point here: DNS rebinding), must not come from another
site, and an order (POST) must come from this very page and carry the token that only its news tell.

*One request for each connection*, news excepted: this is a debugging aid on loopback, and a connection that idles
between requests would be one more thing to be told apart from the sample's.
"""

from __future__ import annotations

import json
import re
import secrets
from functools import lru_cache
from importlib import resources
from typing import Any

from reactor import Connection, Limits, Listener, Options, Reactor, Watermarks
from samples.monitor import MOST_CONNECTIONS, metrics
from samples.monitor.monitor import Monitor
from samples.monitor.teach import Refused
from samples.web import Answer, Http, Request, Response, Routes, Settings, Stream, page_response, say

_HOST = "127.0.0.1"
# Names under which a browser on this machine, or at the near end of a tunnel, knows it. The port may be a tunnel's.
_OUR_NAMES = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_MOST_PAGES = 16
# Everything about every lane is some 300 KiB; only a page that does not read for longer than that is behind.
_PAGE_QUEUE_BYTES = 1024 * 1024
_ORDER_BYTES = 64 * 1024

_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Connection", "close"),
)


def attach(reactor: Reactor, port: int, *, teach: bool = False) -> Listener:
    """Serves a live page about this reactor's connections at http://127.0.0.1:`port`; 0 picks a free port.

    Attach before you listen or connect: of a connection that began earlier only its present state is shown. With
    `teach`, the page has buttons for scripted peers that connect to the reactor's own listeners. OSError when the port
    cannot be had. The monitor's own connections are not shown, not counted, and keep no reactor alive: they end with a
    drain, and when nothing else is left that could wake the reactor.
    """
    options = Options(
        limits=Limits(connections=MOST_CONNECTIONS, read_bytes=_ORDER_BYTES),
        watermarks=Watermarks(high=_PAGE_QUEUE_BYTES),
    )
    # The factory is called in a later turn, when there is a monitor.
    listener = reactor.listen(lambda: _Visit(monitor, site), _HOST, port, options=options)
    monitor = Monitor(reactor, listener, teach=teach)
    site = _Site(monitor)
    return listener


class _Visit(Http):
    """One of our own connections: HTTP, and nothing of the sample's."""

    def __init__(self, monitor: Monitor, site: _Site) -> None:
        super().__init__(monitor.reactor, site, Settings(early=site.refusal))
        self._monitor = monitor

    def connection_made(self, connection: Connection) -> None:
        self._monitor.disown(connection)
        super().connection_made(connection)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._monitor.disowned_ended(self.connection)


class _News(Stream):
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) for one page."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(200, (("Content-Type", "text/event-stream"), *_ALWAYS))
        self._monitor = monitor
        self._behind = False

    def opened(self) -> None:
        self.write(b"retry: 1000\n\n")
        self._monitor.add_page(self.tell)

    def gone(self) -> None:
        self._monitor.remove_page(self.tell)

    def end(self) -> None:
        self._monitor.remove_page(self.tell)
        super().end()

    def draining(self) -> None:
        self.write(b"event: drained\ndata:\n\n")
        self.end()

    def pause_writing(self) -> None:
        self._behind = True

    def resume_writing(self) -> None:
        self._behind = False

    def tell(self, news: dict[str, Any]) -> bool:
        """Sends them; False when the page is behind, so that it gets everything once it reads again."""
        if not self._behind:
            self.write(b"event: news\ndata: %b\n\n" % _json(news))
        return not self._behind


class _Site:
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._routes = Routes(
            {
                "/": {"GET": lambda _: _page()},
                "/events": {"GET": self._news},
                "/connections": {"GET": lambda _: _json_response(monitor.table())},
                "/metrics": {"GET": self._metrics},
                **({} if monitor.teacher is None else {"/teach": {"POST": self._teach}}),
            }
        )

    def __call__(self, request: Request) -> Answer:
        refused = self._guard(request)
        if refused is None and request.method in ("GET", "HEAD") and request.path.startswith("/connections/"):
            return self._story(request)
        return refused or _closing(self._routes(request))

    def refusal(self, request: Request) -> Response | None:
        """For a request with content: what is wrong with it, before any content is read."""
        return self._guard(request) or self._routes.refusal(request)

    def _guard(self, request: Request) -> Response | None:
        host = request.fields.get("host", "")
        if not _OUR_NAMES.fullmatch(host):
            return say(421, "ask for localhost or 127.0.0.1", *_ALWAYS)
        # A link to the page may be followed from anywhere. All else is asked for by the page itself, or by no browser.
        followed = request.path == "/" and request.fields.get("sec-fetch-mode") == "navigate"
        if request.fields.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed:
            return say(403, "other sites may not look", *_ALWAYS)
        if request.method not in ("GET", "HEAD"):
            token = request.fields.get("x-monitor-token", "").encode()
            if request.fields.get("origin") != f"http://{host}":
                return say(403, "orders come from the monitor's own page", *_ALWAYS)
            if self._monitor.token is None or not secrets.compare_digest(token, self._monitor.token.encode()):
                return say(403, "orders need the page's token", *_ALWAYS)
        return None

    def _news(self, _: Request) -> Answer:
        if self._monitor.pages >= _MOST_PAGES:
            return say(503, f"{_MOST_PAGES} pages are looking already", ("Retry-After", "10"), *_ALWAYS)
        return _News(self._monitor)

    def _metrics(self, _: Request) -> Response:
        return Response(200, (("Content-Type", metrics.CONTENT_TYPE), *_ALWAYS), metrics.metrics(self._monitor))

    def _story(self, request: Request) -> Response:
        number = request.path.removeprefix("/connections/")
        story = self._monitor.story(f"#{number}")
        return say(404, "there is no such connection any more", *_ALWAYS) if story is None else _json_response(story)

    def _teach(self, request: Request) -> Response:
        assert self._monitor.teacher is not None
        try:
            arguments = json.loads(request.body)
            if not isinstance(arguments, dict):
                raise Refused("an order is a JSON object")
            return _json_response(self._monitor.teacher.obey(arguments))
        except (Refused, ValueError, RecursionError, OSError) as exc:
            return _json_response({"error": str(exc)}, 400)


def _closing(answer: Answer) -> Answer:
    """What `Routes` says by itself ends the connection, too."""
    if isinstance(answer, Response) and ("Connection", "close") not in answer.fields:
        return Response(answer.status, (*answer.fields, *_ALWAYS), answer.content)
    return answer


def _json_response(value: Any, status: int = 200) -> Response:
    return Response(status, (("Content-Type", "application/json"), *_ALWAYS), _json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


@lru_cache(maxsize=1)
def _page() -> Response:
    return page_response(resources.files("samples.monitor").joinpath("page.html").read_bytes(), *_ALWAYS)
