"""The same server of lines, on this reactor."""

import sys

from reactor import Reactor
from reactor.framing import Delimited, FramedProtocol


class Session(FramedProtocol):
    reader = Delimited(b"\r\n", 1000)

    def frame_received(self, frame):
        if frame == b"quit":
            self.write_frame(b"bye")
            self.connection.close()
        else:
            self.write_frame(frame.upper())


if __name__ == "__main__":
    with Reactor() as reactor:
        listener = reactor.listen(Session, "127.0.0.1", int(sys.argv[1]))
        print(listener.addresses[0][1], flush=True)
        reactor.drain_on_signals(deadline=30)
        reactor.run()
