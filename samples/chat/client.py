"""The terminal side of the chat: standard input goes to the server, what comes is printed.

Both are served by one reactor, in `common.Client`: the terminal is a foreign descriptor that is watched with
`add_reader`. Ctrl-D ends our side, as `nc -N` does, and the server's last words are still printed.

A terminal obeys what is printed on it. So what comes is cleaned here too: this client may be talking to any server.
"""

from __future__ import annotations

import codecs

from reactor import Reactor
from samples import common
from samples.chat.text import clean


class Terminal(common.Client):
    """One connection to a chat, shown on stdout."""

    def __init__(self, reactor: Reactor) -> None:
        super().__init__(reactor)
        # Keeps the first bytes of a character whose last bytes are still on their way.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        super().show("\n".join(map(clean, text.split("\n"))).encode())
