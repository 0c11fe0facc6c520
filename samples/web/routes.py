"""A site by a table: path, then method.

HEAD is answered as GET, unless the table says otherwise. What the table lacks is told apart as RFC 9110 has it: 501 for
a method that nobody knows here (15.6.2), 404 for a path that is not there, 405 with the methods for a path that is, but
not with that one (15.5.6).
"""

from __future__ import annotations

from collections.abc import Mapping

from samples.web.messages import Answer, Request, Response, Site, say

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"})


class Routes:
    """A site: called with a request, it answers as the table says."""

    def __init__(self, table: Mapping[str, Mapping[str, Site]]) -> None:
        self._table = {path: _with_head(methods) for path, methods in table.items()}

    def __call__(self, request: Request) -> Answer:
        return self.refusal(request) or self._table[request.path][request.method](request)

    def refusal(self, request: Request) -> Response | None:
        """What is wrong with the path or the method. Good for `Settings.early`: no body is waited for then."""
        if request.method not in KNOWN_METHODS:
            return say(501, "that method is not known")
        methods = self._table.get(request.path)
        if methods is None:
            return say(404, "there is nothing under that name")
        if request.method not in methods:
            return say(405, "not with that method", ("Allow", ", ".join(methods)))
        return None


def _with_head(methods: Mapping[str, Site]) -> Mapping[str, Site]:
    return {**methods, "HEAD": methods["GET"]} if "GET" in methods and "HEAD" not in methods else methods
