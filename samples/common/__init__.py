"""What every sample's command line shares, so that a sample itself is only its protocol.

A server's `main` is one call: `run_server(parser, args, serve)`. It reads the arguments, makes the reactor, calls
`serve(reactor, host, port, path=..., sock=..., tls=..., options=...)` for each place to listen at (only with what was
asked for), prints `listening on ADDRESS` for each address, tells the service manager, and runs until SIGTERM or SIGINT
has drained it. `run_client` is the same for the calling side.

What cannot work is told in one line on stderr, with exit status 2, before anything is served. Exit status 0 means that
the drain lost nothing; 1 that something was lost, with the reason on stderr. Read it in this order:

1. `words.py`         what may stand behind an option: a port, seconds, HOST:PORT; and a failure in words.
2. `arguments.py`     the options that every sample takes, and what they mean to a reactor.
3. `certificates.py`  the files of a server's and of a client's TLS.
4. `places.py`        where to listen: a host and a port, a Unix socket, what a service manager has opened.
5. `signals.py`       what SIGTERM and SIGINT are to a program that has ended because of them: nothing.
6. `server.py`        `run_server`; with `--workers` several processes do so (`../workers.py`).
7. `client.py`        `run_client`, and the client that joins a connection with standard input and output.
8. `descriptors.py`   how many connections a server can let in, so that descriptors are left for its work.
9. `foreign.py`       for protocols of lines: a browser that speaks HTTP there is found out.
"""

from samples.common.arguments import EXIT_STATUS, Parser, add_connect, needing, parser, patient
from samples.common.certificates import trusting
from samples.common.client import Client, run_client
from samples.common.descriptors import Room
from samples.common.foreign import FirstLine, is_foreign_command
from samples.common.server import run_server
from samples.common.words import count, port, reason, seconds, seconds_within, target

__all__ = [
    "EXIT_STATUS",
    "Client",
    "FirstLine",
    "Parser",
    "Room",
    "add_connect",
    "count",
    "is_foreign_command",
    "needing",
    "parser",
    "patient",
    "port",
    "reason",
    "run_client",
    "run_server",
    "seconds",
    "seconds_within",
    "target",
    "trusting",
]
