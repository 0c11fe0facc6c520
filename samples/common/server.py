"""`run_server`: from the arguments to a server that has drained.

The order matters: what cannot be used is refused before anything is opened; a monitor is attached before anybody else
listens, for it is told only of what begins from then on; and only who listens says so.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

import attrs

from reactor import Listener, Reactor
from reactor.addresses import address_text
from reactor.system import Socket, System
from samples.common.arguments import Parser, options_of, reactor_of
from samples.common.certificates import server_context
from samples.common.places import Place, close_all, opened, places_of
from samples.common.signals import LastSignals
from samples.common.words import reason
from samples.monitor import MOST_CONNECTIONS, attach
from samples.workers import Link, supervise

logger = logging.getLogger("samples")


def run_server(made: Parser, args: argparse.Namespace, serve: Callable[..., Listener]) -> int:
    """Serves until a signal has drained it; returns the exit status. From then on SIGTERM and SIGINT are ignored."""
    if args.tls or args.tls_ca is not None:
        made.error("--tls and --tls-ca need --connect; a server takes --tls-cert")
    if args.teach and args.monitor is None:
        made.error("--teach needs --monitor")
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        System().service_manager()
    except ValueError as exc:
        made.refuse(reason(exc))
    how: dict[str, Any] = {"options": options_of(args)}
    if args.tls_cert is not None or args.tls_key is not None:
        how["tls"] = server_context(made, args)
    if (args.workers or 1) > 1:
        return _run_workers(made, args, serve, how)
    with LastSignals() as signals, reactor_of(made, args) as reactor:
        monitor = _attach_monitor(made, args, reactor)
        signals.hand_over(lambda: reactor.drain_on_signals(args.drain_timeout))
        others = 0 if monitor is None else MOST_CONNECTIONS
        addresses = _listen(made, reactor, serve, places_of(made, args), how, others)
        _tell_serving(made, addresses)
        if monitor is not None:
            made.say(f"monitor on http://{address_text(monitor.addresses[0])}/")
        try:
            reactor.notify("READY=1", "STATUS=listening on " + ", ".join(addresses))
        except OSError as exc:
            logger.warning("%s", reason(exc))
        return _run(reactor)


def _attach_monitor(made: Parser, args: argparse.Namespace, reactor: Reactor) -> Listener | None:
    if args.monitor is None:
        return None
    try:
        return attach(reactor, args.monitor, teach=args.teach)
    except ModuleNotFoundError as exc:
        made.refuse(f"--monitor needs the module {exc.name}: pip install '.[web]'")
    except OSError as exc:
        made.refuse(f"--monitor {args.monitor}: {reason(exc)}")


def _listen(
    made: Parser,
    reactor: Reactor,
    serve: Callable[..., Listener],
    places: list[Place],
    how: dict[str, Any],
    others: int = 0,
) -> list[str]:
    """Listens at each; the addresses, as people write them. `others` may be let in elsewhere in this process."""
    addresses: list[str] = []
    options = how["options"]
    if made.room is not None:
        most = made.room.beside(others).limit(options.limits.connections, len(places))
        options = attrs.evolve(options, limits=attrs.evolve(options.limits, connections=most))
    for place in places:
        try:
            listener = serve(reactor, *place.where, **place.how, **{**how, "options": options})
            addresses += map(address_text, listener.addresses)
        except (OSError, ValueError) as exc:
            close_all(other.how["sock"] for other in places if "sock" in other.how)
            made.refuse(place.name + reason(exc))
    return addresses


def _tell_serving(made: Parser, addresses: list[str]) -> None:
    for address in addresses:
        made.say(f"listening on {address}")


def _run(reactor: Reactor) -> int:
    """The exit status, as `EXIT_STATUS` has it."""
    reactor.run()
    if reactor.drained is not None and reactor.drained.clean:
        return 0
    print(reactor.drained or "it ended unasked: there is no socket left to listen on", file=sys.stderr)
    return 1


# Several processes


def _run_workers(made: Parser, args: argparse.Namespace, serve: Callable[..., Listener], how: dict[str, Any]) -> int:
    """Everything is opened here, before the first worker: so a queue of callers outlives a worker that fails."""
    if args.monitor is not None:
        made.error("--monitor sees one process: it cannot be combined with --workers")
    system = System()
    slots: list[list[Socket]] = [[] for _ in range(args.workers)]
    for place in places_of(made, args):
        try:
            for slot, sockets in zip(slots, opened(system, place, how["options"], args.workers), strict=True):
                slot += sockets
        except (OSError, ValueError) as exc:
            close_all(sock for slot in slots for sock in slot)
            made.refuse(place.name + reason(exc))
    addresses = [address_text(sock.getsockname()) for sock in slots[0]]

    def work(link: Link) -> int:
        mine = slots[link.slot]
        close_all(sock for slot in slots for sock in slot if sock not in mine)
        with reactor_of(made, args) as reactor:
            _listen(made, reactor, serve, [Place(how={"sock": sock}) for sock in mine], how)
            link.serving(reactor, args.drain_timeout)
            return _run(reactor)

    def ending() -> None:
        for sock in {sock for slot in slots for sock in slot}:
            system.close_listening(sock)

    return supervise(
        work,
        args.workers,
        drain_timeout=args.drain_timeout,
        status=f"{args.workers} workers at {', '.join(addresses)}",
        serving=lambda: _tell_serving(made, addresses),
        ending=ending,
    )
