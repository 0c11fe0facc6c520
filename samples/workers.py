"""Several processes that serve one port: a parent that only supervises, and workers with a reactor each.

1. The parent serves nobody and makes no reactor: it forks first. A poller shared by two processes would serve neither.
2. The parent opens the listening sockets, and keeps them open. So a socket's queue of callers outlives the worker of
   its slot, and the next worker there takes them over; nobody is reset who was not yet let in.
3. The first worker shows that the arguments can be used; then come the others. What fails before all of them served is
   the program's failure: it ends with that status, and nothing is tried again.
4. A worker that ends unasked is replaced: at once when it had served for a while, else after a back-off. One that was
   told to drain by a signal of its own is replaced as soon as it begins to: SIGTERM to one worker renews it.
5. Orders travel by a pipe, not by signals: a terminal and a service manager signal every process of the group
   themselves, and a second signal means "at once", while a second order to drain changes nothing. The pipe's end is
   an order, too: when the parent was killed, its workers drain.
6. The end is bounded: who has not ended by the drain's deadline and a grace is killed. The status is the worst one.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import attrs

from reactor import Reactor
from reactor.system import System

logger = logging.getLogger("samples")

# Seconds until a worker that ended young is replaced, doubled while they go on dying young: no busy loop, and a service
# whose database comes back is back within ten seconds itself.
_BACK_OFF = 0.1
_BACK_OFF_MOST = 10.0
# Who served for so long was sound; what ended it is no reason to hesitate.
_SETTLED = 10.0
# Beyond the drain's own deadline: a worker that has not even ended by force is stuck in a callback.
_GRACE = 5.0

# Seconds for a service manager that is busy: nobody waits for us meanwhile but signals.
_NOTICE_PATIENCE = 1.0

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SERVING, _DRAIN, _NOW = b"s", b"d", b"n"


class Link:
    """A worker's line to its parent."""

    def __init__(self, slot: int, orders: int, reports: int, mask: set[int]) -> None:
        # Which of the workers this is, from 0; its replacement will be the same one.
        self.slot = slot
        self._orders = orders
        self._reports = reports
        self._mask = mask
        self._was_signalled = False

    def serving(self, reactor: Reactor, drain_timeout: float) -> None:
        """Tells the parent, and does from now on what it orders. Signals, which waited until now, are served: SIGTERM
        and SIGINT drain, a second one ends at once.
        """
        os.write(self._reports, _SERVING)
        reactor.add_reader(self._orders, self._obey, reactor, drain_timeout)
        for number in _STOP_SIGNALS:
            reactor.add_signal_handler(number, self._signalled, reactor, drain_timeout)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _obey(self, reactor: Reactor, drain_timeout: float) -> None:
        orders = os.read(self._orders, 16)
        if not orders:
            reactor.remove_reader(self._orders)
        reactor.drain(0 if _NOW in orders else drain_timeout)

    def _signalled(self, reactor: Reactor, drain_timeout: float) -> None:
        logger.info("worker %d: a signal asks to end", os.getpid())
        try:
            os.write(self._reports, _DRAIN)
        except BrokenPipeError:
            pass  # the parent is gone, and nobody will replace us
        # An order may have come first, for the same reason: only a second signal is one too many.
        reactor.drain(0 if self._was_signalled else drain_timeout)
        self._was_signalled = True


def supervise(
    work: Callable[[Link], int],
    count: int,
    *,
    drain_timeout: float,
    status: str,
    serving: Callable[[], None],
    ending: Callable[[], None],
) -> int:
    """Runs `work` in so many processes until a signal has ended them; returns the exit status.

    `work` makes its own reactor, calls `link.serving` once it listens, and returns its exit status. Here, `serving` is
    called once, when all of them serve, and `status` told to the service manager; and `ending` once, when they are to
    end: close the listening sockets here, for then the last worker to close them lets in who still waits. Only for the
    main thread of a program without other threads: it forks.
    """
    with _Signals() as signals:
        return _Supervisor(work, count, drain_timeout, status, serving, ending, signals).run()


class _Signals:
    """SIGTERM, SIGINT and SIGCHLD as bytes in a pipe. Afterwards the first two are ignored, in parent and child alike.

    A process that has done what they asked for is on its way out; one that comes then, to all of a group perhaps, must
    not make that look like a death.
    """

    def __enter__(self) -> _Signals:
        self._read_end, self._write_end = os.pipe()
        for fd in (self._read_end, self._write_end):
            os.set_blocking(fd, False)
        self._descriptor_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _only_wake) for number in (*_STOP_SIGNALS, signal.SIGCHLD)}
        return self

    def fileno(self) -> int:
        return self._read_end

    def take(self) -> list[int]:
        """The signals that came since."""
        try:
            return list(os.read(self._read_end, 4096))
        except BlockingIOError:
            return []

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if number in _STOP_SIGNALS else handler)
        signal.set_wakeup_fd(self._descriptor_before)
        os.close(self._read_end)
        os.close(self._write_end)


def _only_wake(number: int, frame: FrameType | None) -> None:
    """The number is in the pipe."""


@attrs.define(eq=False)
class _Worker:
    slot: int
    pid: int
    orders: int
    # Where it reports; None once it cannot any more.
    reports: int | None
    began: float
    serves: bool = False
    # Its slot is another's by now.
    replaced: bool = False


class _Supervisor:
    def __init__(
        self,
        work: Callable[[Link], int],
        count: int,
        drain_timeout: float,
        status: str,
        serving: Callable[[], None],
        ending: Callable[[], None],
        signals: _Signals,
    ) -> None:
        self._work = work
        self._count = count
        self._drain_timeout = drain_timeout
        self._text = status
        self._tell_serving = serving
        self._tell_ending = ending
        self._signals = signals
        self._workers: list[_Worker] = []
        self._first_served = False
        self._all_served = False
        # When workers are due, by slot; how long the next replacement waits.
        self._due: dict[int, float] = {0: 0.0}
        self._back_off = _BACK_OFF
        # When who is left will be killed; None while nobody is asked to end.
        self._kill_at: float | None = None
        self._status = 0
        self._manager = System().service_manager()
        self._watchdog = None if self._manager is None else self._manager.watchdog
        self._next_ping = 0.0

    def run(self) -> int:
        while self._workers or self._due:
            reports = [worker.reports for worker in self._workers if worker.reports is not None]
            ready = _readable([self._signals.fileno(), *reports], self._patience())
            for number in self._signals.take():
                if number in _STOP_SIGNALS:
                    self._end()
            for worker in self._workers:
                if worker.reports in ready:
                    self._read_reports(worker)
            self._bury()
            self._start_who_is_due()
            self._kill_who_is_late()
            self._ping()
        return self._status

    def _patience(self) -> float | None:
        """Until something is due by the clock; None: a signal or a report will come."""
        due = [*self._due.values()]
        if self._kill_at is not None:
            due.append(self._kill_at)
        if self._watchdog is not None and self._all_served:
            due.append(self._next_ping)
        wait = min(due, default=math.inf) - time.monotonic()
        return None if wait == math.inf else max(0.0, wait)

    # Starting

    def _start(self, slot: int) -> None:
        """Forks one worker. Signals wait meanwhile, in the child until it serves: then somebody handles them."""
        theirs = [end for worker in self._workers for end in (worker.orders, worker.reports) if end is not None]
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        ends: list[int] = []
        mask: set[int] = signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP_SIGNALS, signal.SIGCHLD))
        try:
            ends += os.pipe()
            ends += os.pipe()
            orders, order, reports, report = ends
            pid = os.fork()
            if pid == 0:
                link = Link(slot, orders, report, mask)
                _become_worker(self._work, link, self._signals, [*theirs, order, reports])
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(orders)
        os.close(report)
        os.set_blocking(order, False)
        self._workers.append(_Worker(slot, pid, order, reports, time.monotonic()))

    def _start_who_is_due(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, when in self._due.items() if when <= now]:
            del self._due[slot]
            try:
                self._start(slot)
            except OSError as exc:
                logger.error("no process can be made: %s", exc.strerror)
                self._status = 1
                if not self._all_served:
                    self._end()
                    return
                self._start_later(slot)

    def _start_later(self, slot: int) -> None:
        self._due[slot] = time.monotonic() + self._back_off
        self._back_off = min(2 * self._back_off, _BACK_OFF_MOST)

    def _read_reports(self, worker: _Worker) -> None:
        assert worker.reports is not None
        reports = os.read(worker.reports, 16)
        if not reports:
            os.close(worker.reports)
            worker.reports = None
        if self._kill_at is not None:
            return
        if _SERVING in reports:
            worker.serves = True
            self._one_more_serves()
        if _DRAIN in reports:
            logger.info("worker %d drains; it is replaced", worker.pid)
            self._replace(worker)

    def _one_more_serves(self) -> None:
        if self._all_served:
            return
        if not self._first_served:
            self._first_served = True
            self._due.update((slot, 0.0) for slot in range(1, self._count))
        if not self._due and all(worker.serves for worker in self._workers):
            self._all_served = True
            self._tell_serving()
            self._notify("READY=1", f"STATUS={self._text}")

    def _replace(self, worker: _Worker) -> None:
        """Once for each worker, whatever comes first: that it drains, or that it has ended."""
        if worker.replaced:
            return
        worker.replaced = True
        if time.monotonic() - worker.began >= _SETTLED:
            self._back_off = _BACK_OFF
            self._due[worker.slot] = 0.0
        else:
            self._start_later(worker.slot)

    # Ending

    def _end(self) -> None:
        """The first time it is an order to drain, then to end at once."""
        again = self._kill_at is not None
        self._kill_at = time.monotonic() + _GRACE + (0 if again else self._drain_timeout)
        self._due.clear()
        if not again:
            self._notify("STOPPING=1")
            self._tell_ending()
        for worker in self._workers:
            try:
                os.write(worker.orders, _NOW if again else _DRAIN)
            except (BrokenPipeError, BlockingIOError):
                pass  # it has ended, or was ordered so 65,536 times

    def _bury(self) -> None:
        for worker in list(self._workers):
            pid, waited = os.waitpid(worker.pid, os.WNOHANG)
            if pid == 0:
                continue
            while worker.reports is not None:
                self._read_reports(worker)  # what it said before it ended counts
            os.close(worker.orders)
            self._workers.remove(worker)
            self._ended(worker, os.waitstatus_to_exitcode(waited))

    def _ended(self, worker: _Worker, code: int) -> None:
        self._status = max(self._status, 1 if code < 0 else code)
        if self._kill_at is not None:
            return
        if not self._all_served:
            self._status = self._status or 1
            self._end()
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        logger.log(logging.WARNING if code else logging.INFO, "worker %d %s", worker.pid, how)
        self._replace(worker)

    def _kill_who_is_late(self) -> None:
        if self._kill_at is None or time.monotonic() < self._kill_at:
            return
        for worker in self._workers:
            logger.error("worker %d does not end: it is killed", worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        self._kill_at = math.inf

    # The service manager

    def _ping(self) -> None:
        if self._watchdog is not None and self._all_served and time.monotonic() >= self._next_ping:
            self._next_ping = time.monotonic() + self._watchdog / 2
            self._notify("WATCHDOG=1")

    def _notify(self, *assignments: str) -> None:
        if self._manager is not None:
            try:
                self._manager.notify(*assignments, patience=_NOTICE_PATIENCE)
            except OSError as exc:
                logger.warning("%s", exc.strerror)


def _readable(descriptors: list[int], patience: float | None) -> set[int]:
    with selectors.DefaultSelector() as selector:
        for fd in descriptors:
            selector.register(fd, selectors.EVENT_READ)
        return {key.fd for key, _ in selector.select(patience)}


def _become_worker(work: Callable[[Link], int], link: Link, signals: _Signals, parents: list[int]) -> NoReturn:
    """The child's life. It ends here: nothing of the parent's stack is run twice."""
    status = 1
    try:
        signals.__exit__()
        for end in parents:
            os.close(end)
        status = work(link)
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except OSError:
                status = status or 1
        os._exit(status)
