"""This reactor: plain protocols, default options."""

import os

from benchmarks.adapters.callbacks import arguments, behaviours, listening, timers
from reactor import Deadlines, Options, Protocol, Reactor, trace

FORMATS = {"text": trace.text, "json": trace.json_lines}

behaviour, options = arguments()
idle = float(options["idle"]) if "idle" in options else None
with Reactor() as reactor, open(os.devnull, "w", encoding="utf-8") as nowhere:
    if behaviour == "timers":
        timers(reactor.call_later, lambda handle: handle.cancel(), int(options["count"]))
    else:
        if "trace" in options:
            reactor.observe(FORMATS[options["trace"]](nowhere))
        factory = behaviours(Protocol)[behaviour]
        listener = reactor.listen(factory, "127.0.0.1", 0, options=Options(deadlines=Deadlines(idle=idle)))
        listening(listener.addresses[0][1])
        reactor.run()
