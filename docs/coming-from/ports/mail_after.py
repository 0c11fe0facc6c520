"""The same server, made of the sample that speaks SMTP on this reactor."""

import sys

from reactor import Reactor
from samples.smtpsink.server import serve
from samples.smtpsink.sink import Sink


class Postman(Sink):
    def deliver(self, message):
        print(f"{message.sender} writes {len(message.content)} bytes to {', '.join(message.recipients)}", flush=True)


if __name__ == "__main__":
    with Reactor() as reactor:
        listener = serve(reactor, "127.0.0.1", int(sys.argv[1]), sink=Postman())
        print(listener.addresses[0][1], flush=True)
        reactor.drain_on_signals(deadline=30)
        reactor.run()
