"""`/metrics`: the reactor's numbers for Prometheus, written by its own client library.

Counts of bytes are of all connections that began after the monitor was attached; the monitor's own connections are in
none of these numbers. Totals of what was lost are added when a connection ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from reactor.lifecycle import STATES

if TYPE_CHECKING:
    from samples.monitor.monitor import Monitor

# What `metrics` returns.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics(monitor: Monitor) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(monitor))
    return bytes(generate_latest(registry))


class _Collector:
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        yield from self._connections()
        yield from self._bytes()
        yield from self._loop()

    def _connections(self) -> Iterator[Metric]:
        monitor = self._monitor
        connections, ended = monitor.connections(), monitor.ended()
        living = Counter(connection.state.name for connection in connections)
        states = GaugeMetricFamily("reactor_connections", "Connections by lifecycle state.", labels=["state"])
        for state in STATES:
            states.add_metric([state.name], living[state.name])
        yield states
        yield CounterMetricFamily("reactor_connections_begun", "Connections that have begun.", monitor.lanes.begun)
        ends = CounterMetricFamily("reactor_connections_ended", "Connections that have ended.", labels=["how"])
        ends.add_metric(["in order"], ended.ended_in_order)
        ends.add_metric(["lost"], ended.lost)
        yield ends
        waiting = sum(connection.get_write_buffer_size() for connection in connections)
        yield GaugeMetricFamily("reactor_queued_bytes", "Bytes that wait for the kernel to take them.", waiting)

    def _bytes(self) -> Iterator[Metric]:
        moved, ended = self._monitor.lanes.bytes, self._monitor.ended()
        for name, value, help_text in (
            ("received", moved["received"], "Bytes delivered to protocols."),
            ("sent", moved["sent"], "Bytes that the kernel accepted."),
            ("discarded", moved["discarded"], "Bytes read after our end and thrown away."),
            ("unsent", ended.unsent, "Bytes written and never given to the kernel; counted at the end."),
            ("unacknowledged", ended.unacknowledged, "Bytes sent and not confirmed by the peer when it ended."),
        ):
            yield CounterMetricFamily(f"reactor_{name}_bytes", help_text, value)

    def _loop(self) -> Iterator[Metric]:
        reactor, pulse = self._monitor.reactor, self._monitor.pulse
        yield CounterMetricFamily("reactor_turns", "Turns of the loop.", reactor.turns)
        # Without the monitor's own heartbeat, which waits whenever somebody asks.
        yield GaugeMetricFamily("reactor_timers", "Timers that wait.", len(reactor.timers) - 1)
        yield GaugeMetricFamily("reactor_listeners", "Listeners that are open.", len(self._monitor.listeners()))
        yield GaugeMetricFamily("reactor_draining", "1 while the reactor drains.", int(reactor.draining))
        yield CounterMetricFamily("reactor_slow_calls", "Calls that took 10 ms or more.", pulse.slow_calls)
        for name, histogram, help_text in (
            ("turn", pulse.work, "How long a turn works, and everybody else waits."),
            ("timer_lateness", pulse.lateness, "How late a timer fires."),
        ):
            family = HistogramMetricFamily(f"reactor_{name}_seconds", help_text)
            family.add_metric([], histogram.cumulative(), histogram.total)
            yield family
