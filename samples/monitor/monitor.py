"""What the monitor knows of one reactor, and who is told: the records, the heartbeat, and the news for each page.

*News* are differences. With every beat, each lane's facts are compared with those that were told before, and what has
changed goes to every page. A page that is new, or that could not keep up, gets everything instead. Nobody looks: then
no connection is asked anything, and the heartbeat only counts.

*It is a guest.* Its listener and its pages' connections are none of the sample's, and no reason for the loop to go on.
A drain ends them as it ends all others; and when nothing but the monitor is left that could wake the reactor, the
monitor ends in order by itself, so that `run()` returns as it would have without it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from reactor import Connection, Listener, Reactor
from reactor.addresses import address_text
from reactor.report import Totals
from reactor.trace import Record
from samples.monitor.lanes import Lanes
from samples.monitor.pulse import TICK, Pulse
from samples.monitor.teach import Teacher

# Beats in a row without anything left but the monitor, before it ends: a call posted just now may yet begin something.
_QUIET_BEATS = 2

# Shows a page some news, or (False) cannot just now, and will ask for everything later.
Tell = Callable[[dict[str, Any]], bool]


class Monitor:
    """Watches a reactor from now on. `listener` is the monitor's own, where its pages are served."""

    def __init__(self, reactor: Reactor, listener: Listener, *, teach: bool = False) -> None:
        self.reactor = reactor
        self.listener = listener
        self.lanes = Lanes(self._find)
        self.pulse = Pulse(reactor, self.lanes.is_own)
        self.teacher = Teacher(reactor, self.listeners, self.connections) if teach else None
        # Whoever gives orders must show that they have read our page, which no other web site can.
        self.token = secrets.token_urlsafe(16) if teach else None
        self._own_ended = Totals()
        self._pages: dict[Tell, None] = {}
        self._behind: set[Tell] = set()
        # What the pages were told last: the facts of each lane, of the peers, and how many slow calls there were.
        self._told: dict[str, dict[str, Any]] = {}
        self._told_peers: list[dict[str, Any]] = []
        self._told_slow = 0
        self._living = self._without = 0
        self._quiet = 0
        reactor.observe(self._observe)
        self._timer = reactor.call_later(TICK, self._beat)

    # The sample's, without our own

    def connections(self) -> list[Connection]:
        """Those that have not ended."""
        return [one for one in self.reactor.connections if not self.lanes.is_own(f"#{one.number}")]

    def listeners(self) -> tuple[Listener, ...]:
        """Those that are open."""
        return tuple(one for one in self.reactor.listeners if one is not self.listener)

    def ended(self) -> Totals:
        """What the connections that have ended leave behind."""
        return self.reactor.totals.since(self._own_ended)

    # Our own

    def disown(self, connection: Connection) -> None:
        """A page's connection has begun."""
        self.lanes.disown(connection)

    def disowned_ended(self, connection: Connection) -> None:
        """A page's connection has ended."""
        report = connection.report
        self._own_ended.add(
            in_order=report.reason is None,
            received=report.received,
            discarded=report.discarded,
            written=report.written,
            unsent=report.unsent,
            unacknowledged=report.unacknowledged or 0,
        )

    def add_page(self, tell: Tell) -> None:
        """`tell` is given everything with the next beat, and from then on the news with each."""
        self._pages[tell] = None
        self._behind.add(tell)

    def remove_page(self, tell: Tell) -> None:
        """No more news."""
        self._pages.pop(tell, None)
        self._behind.discard(tell)

    @property
    def pages(self) -> int:
        """How many are told the news."""
        return len(self._pages)

    # What happens

    def _observe(self, record: Record) -> None:
        self.lanes.observe(record)
        self.pulse.observe(record)

    def _find(self, name: str) -> Connection | None:
        # The newest end is the last one, so that looking for it takes one step.
        for end in reversed(self.reactor.ends.values()):
            if isinstance(end, Connection) and f"#{end.number}" == name:
                return end
        return None

    def _beat(self) -> None:
        fired, reactor = self._timer, self.reactor
        self.pulse.tick(fired)
        self.lanes.sweep(reactor.time())
        if reactor.draining and self.teacher is not None:
            self.teacher.end()
        self._tell_all()
        self._quiet = 0 if self._is_needed() else self._quiet + 1
        if self._quiet >= _QUIET_BEATS:
            self._end()
        else:
            self._timer = reactor.call_at(max(fired.when() + TICK, reactor.time()), self._beat)

    def _is_needed(self) -> bool:
        """Whether anything but the monitor is left that could ever wake the reactor."""
        now, own = self.reactor.statistics(), self.listener.connections
        peers = 0 if self.teacher is None else self.teacher.watched()
        # An own connection waits with one deadline, for a request or for its end; only one that is told news has none.
        timers = own - self.pages
        # Ours, too: the one socket that the monitor listens on.
        return bool(now.watched > own + peers + 1 or now.elsewhere or now.timers > timers)

    def _end(self) -> None:
        if self.teacher is not None:
            self.teacher.end()
        self.listener.close()
        for one in self.reactor.connections:
            if self.lanes.is_own(f"#{one.number}"):
                self.reactor.post(one, one.drain)

    # News

    def _tell_all(self) -> None:
        if not self._pages:
            return
        news = self._news()
        everything = self._everything(news) if self._behind else {}
        for tell in tuple(self._pages):
            if not tell(everything if tell in self._behind else news):
                self._behind.add(tell)
            else:
                self._behind.discard(tell)

    def _news(self) -> dict[str, Any]:
        facts = self.facts()
        changed = [one for name, one in facts.items() if self._told.get(name) != one]
        gone = [name for name in self._told if name not in facts]
        self._told = facts
        new_calls = self.pulse.slow_calls - self._told_slow
        self._told_slow = self.pulse.slow_calls
        news = {
            "now": self.reactor.time(),
            "changed": changed,
            "gone": gone,
            "without": self._without,
            "totals": self._totals(),
            "pulse": self.pulse.facts(),
            "slow": self.pulse.latest(new_calls),
            "draining": self.reactor.draining,
        }
        if self.teacher is not None:
            peers = self.teacher.facts()
            if peers != self._told_peers:
                news["peers"] = self._told_peers = peers
        return news

    def _everything(self, news: dict[str, Any]) -> dict[str, Any]:
        more: dict[str, Any] = {
            "changed": list(self._told.values()),
            "gone": [],
            "slow": [],
            "full": {"addresses": self.addresses(), "token": self.token, "history": self.pulse.history()},
        }
        if self.teacher is not None:
            more["peers"] = self._told_peers
        return {**news, **more}

    def facts(self) -> dict[str, dict[str, Any]]:
        """Of every lane, by name."""
        connections = self.connections()
        self._living, self._without = len(connections), self.lanes.adopt(connections, self.reactor.time())
        return {lane.name: lane.facts() for lane in self.lanes}

    def table(self) -> dict[str, Any]:
        """What `ps` shows, for JSON."""
        connections = list(self.facts().values())
        return {
            "now": self.reactor.time(),
            "addresses": self.addresses(),
            "draining": self.reactor.draining,
            "connections": connections,
            "without": self._without,
        }

    def story(self, name: str) -> dict[str, Any] | None:
        """What is known of one connection, for JSON; None when there is no such lane."""
        lane = self.lanes.get(name)
        return None if lane is None else {**lane.facts(), "events": lane.story()}

    def addresses(self) -> list[str]:
        """Where the sample listens."""
        return [address_text(address) for listener in self.listeners() for address in listener.addresses]

    def _totals(self) -> dict[str, int]:
        ended, moved = self.ended(), self.lanes.bytes
        return {
            "living": self._living,
            "in_order": ended.ended_in_order,
            "lost": ended.lost,
            "received": moved["received"],
            "sent": moved["sent"],
        }
