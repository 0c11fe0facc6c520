"""How connections end, seen from outside: the same scenarios against a server of each framework, with raw sockets.

    python -m benchmarks.closing                    # all frameworks that are installed
    python -m benchmarks.closing --only reactor     # this one
    python -m benchmarks.closing --only abort trio  # one scenario, one framework

Both sides are looked at: what the client got, and what the framework told its application. `scenarios` has them as
data, `adapters/` one server per framework, with its half-open and graceful options switched on.
It runs on Linux, whose /proc shows the servers' descriptors and CPU time.
"""
