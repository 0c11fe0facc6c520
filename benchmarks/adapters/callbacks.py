"""The behaviours for every framework with asyncio's callbacks, and what their command lines have in common."""

import sys
import time

# More than any benchmark connects at once.
BACKLOG = 4096


def arguments():
    """The behaviour, and the options as a dictionary. Not argparse: it would count as the server's memory."""
    return sys.argv[1], dict(option.split("=") for option in sys.argv[2:])


def listening(port):
    # Every server has once freed a large buffer, as long-lived programs have: glibc then stops mapping memory anew for
    # each large read (mallopt(3), M_MMAP_THRESHOLD). Otherwise asyncio, which reads 256 KiB at a time, would pay three
    # more system calls per message, by an accident of which it knows nothing.
    bytearray(1 << 20)
    print("listening", port, flush=True)


def timers(set_timer, cancel_timer, count):
    """Sets and cancels timers a thousand at a time, as connections do: none is ever due."""
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(count // 1000):
        handles = [set_timer(60 + number % 60, print) for number in range(1000)]
        for handle in handles:
            cancel_timer(handle)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    with open("/proc/self/status", encoding="ascii") as status:
        peak_kib = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    print(seconds, cpu, peak_kib, flush=True)


def behaviours(base):
    """The behaviours by name, as subclasses of the framework's own Protocol."""
    members = set()

    class Echo(base):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    class Relay(Echo):
        def pause_writing(self):
            self.transport.pause_reading()

        def resume_writing(self):
            self.transport.resume_reading()

    class Upload(Echo):
        def data_received(self, data):
            pass

    class Fanout(Echo):
        def connection_made(self, transport):
            self.transport = transport
            members.add(transport)

        def data_received(self, data):
            members.discard(self.transport)
            for line in data.splitlines(keepends=True):
                for member in members:
                    member.write(line)

        def connection_lost(self, exc):
            members.discard(self.transport)

    class Churn(Echo):
        request = b""

        def data_received(self, data):
            self.request += data

        def eof_received(self):
            self.transport.write(self.request)
            self.transport.close()

    return {"echo": Echo, "relay": Relay, "upload": Upload, "fanout": Fanout, "churn": Churn}
