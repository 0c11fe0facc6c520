"""One echo server, four times, each standing on what the one before it gets wrong.

    python -m samples.ladder.blocking          one caller at a time
    python -m samples.ladder.with_select       many at once, by hand
    python -m samples.ladder.with_selectors    the same, grown up
    python -m samples.ladder.with_reactor      the same service on this reactor

Each sends back what it is sent, up to `--limit` bytes for each caller; then it ends the connection. Each is the whole
program, but for its command line and its listening socket (`arguments.py`). What goes wrong in the first three is told,
and tested, in docs/ladder.md.
"""
