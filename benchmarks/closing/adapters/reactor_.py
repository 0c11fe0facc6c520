"""This reactor, with the very protocol classes that asyncio and uvloop serve.

Switched on: `drain_on_signals`, and the flush deadline where a scenario gives one. All else is the default.
"""

import logging

from benchmarks.closing.adapters.job import BACKLOG, HOST, PATIENCE, Job
from benchmarks.closing.adapters.protocols import factory
from reactor import Deadlines, Limits, Options, Reactor


def main() -> None:
    logging.basicConfig()
    job = Job.from_command_line()
    deadlines = Deadlines() if job.deadline is None else Deadlines(flush=job.deadline)
    options = Options(deadlines=deadlines, limits=Limits(backlog=BACKLOG))
    with Reactor() as reactor:
        listener = reactor.listen(factory(job, reactor.call_later), HOST, 0, options=options)
        reactor.drain_on_signals(PATIENCE)
        job.listening(listener.addresses[0][1])
        reactor.run()


if __name__ == "__main__":
    main()
