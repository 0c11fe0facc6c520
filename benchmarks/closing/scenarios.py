"""The scenarios, as data: a name, the numbers they have in the list of endings, what passes and why, and how it goes.

Each `play` gets a `serve` that starts a server of one framework, `serve(behaviour, size, ...)`, and judges what it saw.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import attrs

from benchmarks.closing.clients import PATIENCE, RESET, Client, amount, talk
from benchmarks.closing.servers import Server, ServerFailed

REQUEST = b"request\n"
KB, MB = 1000, 1_000_000
REPLY = 3 * MB
# What must be waiting in the server's own queue is more than the kernel takes off it (Linux: tcp_wmem, 4 MB).
QUEUED = 6 * MB
# Between two reads of a slow reader: some 30 MB/s, so that a reply is under way while things happen.
PACE = 0.002

Serve = Callable[..., Server]


@attrs.frozen
class Verdict:
    """`fact` is what was observed."""

    passed: bool
    fact: str


@attrs.frozen
class Scenario:
    name: str
    numbers: str  # in docs/endings.md
    what: str
    passes: str
    why: str
    play: Callable[[Serve], Verdict]


def told(server: Server, seconds: float = 3.0) -> tuple[bool, str]:
    """Whether the application was told a normal end, and in words what it was told."""
    fact = server.told("lost", seconds)
    if fact is None:
        return False, "told nothing"
    return fact["lost"] is None, f"told {fact['lost'] or 'clean'}"


def judge_reply(server: Server, client: Client, size: int) -> Verdict:
    """The whole reply and a clean end for the client, and a clean end told to the application."""
    client.close()
    clean, words = told(server)
    return Verdict(client.got(size) and clean, f"{client}, {words}")


def unread_request(serve: Serve) -> Verdict:
    with serve("reply", REPLY) as server, server.connect() as client:
        client.send(REQUEST)
        talk([client], wanted=1)
        client.send(bytes(1024))
        talk([client], pause=PACE)
        return judge_reply(server, client, REPLY)


def late_bytes(serve: Serve) -> Verdict:
    with serve("reply", REPLY) as server, server.connect() as client:
        client.send(REQUEST)
        talk([client], pause=PACE, wanted=REPLY // 2)
        client.send(b"late")
        talk([client], pause=PACE)
        return judge_reply(server, client, REPLY)


def upload_goes_on(serve: Serve) -> Verdict:
    with serve("reply", REPLY) as server, server.connect() as client:
        client.send(REQUEST)
        client.upload = 8 * MB
        talk([client], pause=PACE)
        return judge_reply(server, client, REPLY)


def crowd(serve: Serve) -> Verdict:
    size, many = 200 * KB, 300
    with serve("reply", size) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(many)]
        for client in clients:
            client.send(REQUEST)
            client.upload = 1024 * 1024
        talk(clients, seconds=2 * PATIENCE)
        whole = sum(client.count == size for client in clients)
        clean = sum(client.got(size) for client in clients)
        return Verdict(clean == many, f"{whole} of {many} whole, {clean} of them with EOF")


def end_at_once(serve: Serve) -> Verdict:
    with serve("queue", QUEUED) as server, server.connect() as client:
        client.send(REQUEST)
        client.finish()
        talk([client], pause=PACE)
        return judge_reply(server, client, QUEUED)


def half_close(serve: Serve) -> Verdict:
    with serve("half-close-reply", 200 * KB) as server, server.connect() as client:
        client.send(REQUEST)
        client.finish()
        talk([client])
        return judge_reply(server, client, 200 * KB)


def server_first(serve: Serve) -> Verdict:
    with serve("early-half-close", 0) as server, server.connect() as client:
        client.send(REQUEST)
        talk([client], seconds=2)
        client.send(bytes(MB))
        client.finish()
        fact = server.told("received", 2) or {}
        clean, words = told(server)
        received = fact.get("received", 0)
        return Verdict(client.got(0) and received == MB and clean, f"{client.end}, then {amount(received)}, {words}")


def abort(serve: Serve) -> Verdict:
    with serve("abort", QUEUED) as server, server.connect() as client:
        client.send(REQUEST)
        server.told("lost")
        talk([client], seconds=3)
        return Verdict(client.end == RESET, str(client))


def handler_raises(serve: Serve) -> Verdict:
    with serve("raise", QUEUED) as server:
        with server.connect() as client:
            client.send(REQUEST)
            talk([client], wanted=1)
            client.send(REQUEST)
            talk([client], seconds=3, pause=PACE)
        try:
            with server.connect() as after:
                after.send(REQUEST)
                talk([after], seconds=2, wanted=1)
                served = after.count > 0
        except ConnectionError:
            served = False
        return Verdict(client.end == RESET and served, f"{client}, the next {'' if served else 'not '}served")


def write_after_close(serve: Serve) -> Verdict:
    refused, words = True, []
    for queue, size in (("full", QUEUED), ("empty", 0)):
        with serve("write-after-close", size) as server, server.connect() as client:
            client.send(REQUEST)
            fact = server.told("late") or {"late": "told nothing"}
            refused = refused and fact["late"] not in (None, "told nothing")
            words.append(f"{queue}: {fact['late'] or 'silent'}")
    return Verdict(refused, ", ".join(words))


def last_words(serve: Serve) -> Verdict:
    with serve("last-words", 0) as server, server.connect() as client:
        client.send(REQUEST)
        server.told("waiting", 2)
        client.send(bytes(KB))
        client.reset()
        server.say_go_on()
        fact = server.told("received", 2) or {}
        received = fact.get("received", 0)
        clean, words = told(server)
        return Verdict(received == KB and not clean and words != "told nothing", f"{amount(received)} of 1 KB, {words}")


def half_open_reset(serve: Serve) -> Verdict:
    with serve("idle", 0) as server, server.connect() as client:
        client.send(REQUEST)
        client.finish()
        if server.told("half_open", 2) is None:
            return Verdict(False, f"not half open: {told(server)[1]}")
        client.reset()
        begin = time.monotonic()
        clean, words = told(server)
        if words == "told nothing":
            return Verdict(False, "never noticed")
        return Verdict(not clean, f"{words} after {time.monotonic() - begin:.1f} s")


def stalled_reader(serve: Serve) -> Verdict:
    with serve("reply", QUEUED, deadline=2) as server, server.connect() as client:
        client.send(REQUEST)
        begin = time.monotonic()
        clean, words = told(server, 8)
        if words == "told nothing":
            return Verdict(False, "for ever (8 s)")
        seconds = time.monotonic() - begin
        talk([client], seconds=2)
        passed = seconds < 4 and client.end == RESET and not clean
        return Verdict(passed, f"after {seconds:.1f} s: {client}, {words}")


def famine(serve: Serve) -> Verdict:
    many, hello = 40, b"hello"
    with serve("echo", 0, spare=10) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(many)]
        for client in clients:
            client.send(hello)
        before = server.cpu_seconds()
        talk(clients, seconds=1.5, wanted=len(hello))
        busy = server.cpu_seconds() - before
        waiting, deadline = clients, time.monotonic() + PATIENCE
        while waiting and time.monotonic() < deadline:
            for client in waiting:
                if client.count or client.end:
                    client.close()
            waiting = [client for client in waiting if not client.count and not client.end]
            talk(waiting, seconds=0.2, wanted=len(hello))
        served = sum(client.count == len(hello) for client in clients)
        refused = sum(not client.count and client.end is not None for client in clients)
        lines = server.log_lines()
        passed = served == many and lines <= 1000 and busy < 0.5
        fact = f"{served} of {many} served, {refused} refused, {lines} log lines, {busy:.2f} s of CPU"
        return Verdict(passed, fact)


def reader_stays(serve: Serve) -> Verdict:
    with serve("reply", 200 * KB) as server:
        before = server.sockets()
        with server.connect() as client:
            client.send(REQUEST)
            talk([client])
            seconds = server.wait_for_sockets(before, PATIENCE)
            after = f"released after {seconds:.1f} s" if seconds is not None else "never released"
            clean, words = told(server)
            return Verdict(client.got(200 * KB) and seconds is not None and clean, f"{client}, {after}, {words}")


def terminated(server: Server, clients: list[Client], size: int) -> Verdict:
    """What those who were there at SIGTERM got, and how the process ended."""
    whole = sum(client.got(size) for client in clients)
    for client in clients:
        client.close()
    status = server.exit_status()
    fact = f"{whole} of {len(clients)} whole, {'no exit' if status is None else f'exit {status}'}"
    return Verdict(whole == len(clients) and status == 0, fact)


def slow_at_sigterm(serve: Serve) -> Verdict:
    with serve("reply", QUEUED) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(10)]
        for client in clients:
            client.send(REQUEST)
            talk([client], wanted=1)
        server.terminate()
        talk(clients, seconds=2 * PATIENCE, pause=PACE)
        return terminated(server, clients, QUEUED)


def waiting_at_sigterm(serve: Serve) -> Verdict:
    with serve("reply", KB) as server, contextlib.ExitStack() as stack:
        server.stand_still()
        clients = [stack.enter_context(server.connect()) for _ in range(200)]
        for client in clients:
            client.send(REQUEST)
        server.terminate()
        server.go_on()
        talk(clients)
        return terminated(server, clients, KB)


def ends_are_told(serve: Serve) -> Verdict:
    with serve("reply", 200 * KB) as server, server.connect() as client:
        client.send(REQUEST)
        talk([client])
        client.close()
        normal, normal_words = told(server)
    with serve("reply", QUEUED) as server, server.connect() as client:
        client.send(REQUEST)
        talk([client], wanted=1)
        client.reset()
        after_reset, reset_words = told(server)
    passed = normal and not after_reset and reset_words != "told nothing"
    return Verdict(passed, f"normal: {normal_words}; reset: {reset_words}")


SCENARIOS = (
    Scenario(
        "unread",
        "14",
        "a reply of 3 MB and close, while 1 KB more of the request comes",
        "the whole reply, EOF, told clean",
        "closing with one unread byte makes the kernel send a reset and throw the unsent reply away.",
        unread_request,
    ),
    Scenario(
        "late-bytes",
        "15",
        "the same, with four bytes sent after half of the reply was read",
        "the whole reply, EOF, told clean",
        "reading everything before the close is not enough: a byte that comes later does the same.",
        late_bytes,
    ),
    Scenario(
        "upload",
        "16",
        "a reply of 3 MB and close, while the client uploads 8 MB",
        "the whole reply, EOF, told clean",
        "a server that refuses an upload wants its answer to be read.",
        upload_goes_on,
    ),
    Scenario(
        "crowd",
        "14, 16",
        "300 clients at once: a request, then 1 MiB more; a reply of 200 KB and close",
        "300 whole replies, each with EOF",
        "what is rare with one client is certain with many.",
        crowd,
    ),
    Scenario(
        "fin-at-once",
        "3",
        "6 MB queued for a client that sent its FIN right after the request",
        "the whole reply, EOF, told clean",
        "a FIN says that no more is coming, not that nobody reads.",
        end_at_once,
    ),
    Scenario(
        "half-close",
        "7",
        "request, FIN, and the reply 0.2 s later",
        "the whole reply, EOF, told clean",
        "shutdown(1) is how the HOWTO's client says that its request is complete.",
        half_close,
    ),
    Scenario(
        "server-first",
        "8",
        "the server ends its side first, the client sends 1 MB afterwards",
        "EOF for the client, 1 MB for the server, told clean",
        "the other half of a half-close.",
        server_first,
    ),
    Scenario(
        "abort",
        "51",
        "abort with 6 MB queued",
        "a reset",
        "a clean EOF would make a truncated reply look whole.",
        abort,
    ),
    Scenario(
        "raise",
        "48",
        "a handler raises with 6 MB queued",
        "a reset, and the next client is served",
        "nobody decided that this reply was complete.",
        handler_raises,
    ),
    Scenario(
        "write-after-close",
        "46",
        "write after close, with 6 MB queued and with nothing queued",
        "refused with an exception, both times",
        "those bytes would be lost in silence, or sent by luck.",
        write_after_close,
    ),
    Scenario(
        "last-words",
        "30",
        "our write fails while 1 KB from the peer, which has reset, waits to be read",
        "1 KB delivered, then told an error",
        "what the peer said before it left is often the reason why it left.",
        last_words,
    ),
    Scenario(
        "half-open-reset",
        "25",
        "the client resets a half-open connection on which nothing happens",
        "told an error within 2 s",
        "otherwise the connection, and what serves it, stays for ever.",
        half_open_reset,
    ),
    Scenario(
        "stalled",
        "20",
        "close with 6 MB queued for a client that never reads; 2 s allowed where the framework has a way to say so",
        "within 4 s: a reset, told an error",
        "a peer with a closed window can hold a connection for ever (RFC 9293, MUST-37).",
        stalled_reader,
    ),
    Scenario(
        "famine",
        "67",
        "40 clients and 10 descriptors for 1.5 s",
        "40 served, at most 1,000 log lines, less than 0.5 s of CPU",
        "the kernel's queue can hold the callers; nobody needs to be refused, and nothing needs to spin.",
        famine,
    ),
    Scenario(
        "reader-stays",
        "21",
        "the client reads the whole reply and never ends its side",
        "the whole reply, EOF, the descriptor released within 10 s, told clean",
        "who waits for the peer's FIN must not wait for ever.",
        reader_stays,
    ),
    Scenario(
        "sigterm-slow",
        "64",
        "SIGTERM with ten slow readers, 6 MB for each",
        "ten whole replies, exit 0",
        "a deployment is no reason to cut a download.",
        slow_at_sigterm,
    ),
    Scenario(
        "sigterm-queue",
        "63",
        "SIGTERM with 200 clients in the accept queue, their requests sent",
        "200 whole replies, exit 0",
        "closing a listening socket resets everyone who is still in its queue.",
        waiting_at_sigterm,
    ),
    Scenario(
        "told",
        "1, 26",
        "what the application is told: after a normal end, after a reset during the flush",
        "clean for the one, an error for the other",
        "only who is told can log it, count it or send it again (RFC 9293, MUST-12).",
        ends_are_told,
    ),
)


def judged(scenario: Scenario, serve: Callable[..., Any]) -> Verdict:
    """Plays it. A server that dies, or cannot be talked to any more, is a fact, too."""
    try:
        return scenario.play(serve)
    except (OSError, ServerFailed) as exc:
        return Verdict(False, f"{type(exc).__name__}: {exc}")
