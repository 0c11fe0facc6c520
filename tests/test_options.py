"""Options are checked where they are made."""

from __future__ import annotations

import attrs
import pytest

from reactor import Datagrams, Deadlines, Group, Keepalive, Limits, Options, Sockets, Watermarks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Watermarks(high=-1), "Watermarks.high"),
        (lambda: Watermarks(high=10, low=11), "must not be above"),
        (lambda: Watermarks(high="much"), "Watermarks.high"),
        (lambda: Limits(read_bytes=0), "Limits.read_bytes"),
        (lambda: Limits(connections=0), "Limits.connections"),
        (lambda: Limits(backlog=True), "Limits.backlog"),
        (lambda: Deadlines(idle=0), "Deadlines.idle"),
        (lambda: Deadlines(flush=float("nan")), "Deadlines.flush"),
        (lambda: Deadlines(flush=float("inf")), "Deadlines.flush"),
        (lambda: Deadlines(linger_grace=-1), "Deadlines.linger_grace"),
        (lambda: Deadlines(connect="soon"), "Deadlines.connect"),
        (lambda: Deadlines(attempt=5), "Deadlines.attempt must be from 0.01 to 2"),
        (lambda: Keepalive(idle=0), "Keepalive.idle"),
        (lambda: Keepalive(idle=32768), "Keepalive.idle must be from 1 to 32767"),
        (lambda: Keepalive(interval=32768), "Keepalive.interval must be from 1 to 32767"),
        (lambda: Keepalive(count=128), "Keepalive.count must be from 1 to 127"),
        (lambda: Group(address="localhost"), "Group.address must be an IP address in numbers"),
        (lambda: Group(address=4), "Group.address must be an IP address in numbers"),
        (lambda: Group(address="ff02::1%eth0"), "without a zone"),
        (lambda: Group(address="224.0.0.1", interface=""), "Group.interface must be the name"),
        (lambda: Group(address="224.0.0.1", interface=2), "Group.interface must be the name"),
        (lambda: Sockets(nodelay=1), "Sockets.nodelay"),
        (lambda: Sockets(user_timeout=-3), "Sockets.user_timeout"),
        (lambda: Options(linger="no"), "Options.linger"),
        (lambda: Datagrams(queue_bytes=0), "Datagrams.queue_bytes"),
        (lambda: Datagrams(broadcast=1), "Datagrams.broadcast"),
    ],
)
def test_a_bad_value_is_refused_by_name(make, message):
    """The error names the record, the field and the value."""
    with pytest.raises(ValueError, match=message):
        make()


def test_a_record_in_the_wrong_place_is_refused():
    """Options take records, not dictionaries."""
    with pytest.raises(TypeError, match="limits"):
        Options(limits={"read_bytes": 1})


def test_options_are_frozen_and_can_be_varied():
    """A variant is made, the original stays."""
    options = Options()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options.linger = False
    assert attrs.evolve(options, linger=False).linger is False
    assert options.linger is True


def test_the_low_watermark_is_a_quarter_of_the_high():
    """As in asyncio."""
    assert Watermarks().low == 16 * 1024
    assert Watermarks(high=0).low == 0
