"""Linux's TCP, as far as a program can tell: one end of a connection, its kernel's half, and the packets between both.

Facts, with the numbers of the project's measurements:
- A close with unread input is a reset, and so is late input after a close (K1, K2). A reset throws unsent output away,
  never what has arrived (K6). It is told once, then a read gives b"" (K5); after the peer's FIN a read gives b"" and
  only a send or SO_ERROR tells (K7); while our FIN waits, a read tells it (K8).
- Readiness is tcp_poll()'s: HANGUP when both sides are shut, ERROR while an error waits, and neither can be masked
  (K12). WRITE comes back when a third of the send buffer is free.
- A full receive buffer closes the window. What is sent stays in the send buffer until it is acknowledged.
- An ICMP error about an established connection is soft (RFC 9293, MUST-56): SO_ERROR tells it once, nothing else does,
  the connection goes on, and the next acknowledgement or FIN takes it back (K18). With IP_RECVERR a send or a recv
  tells it, too, once, and the connection goes on all the same.
- A kernel that gives up tells its program ETIMEDOUT and its peer nothing: the peer meets a reset when it next sends
  something, be it that its window is open again. An orphan is given up much sooner than what has a program (K22).

A packet is a call of the other end's method, made when the packet arrives (`SimulatedSystem.post`), and the method is
named by what arrives: data, an acknowledgement, a FIN, a reset. A socket whose descriptor was released lives on in the
kernel as an orphan, until its last packets are gone.
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING, Any

from reactor.pollers import HANGUP, READ, WRITE
from reactor.testing.links import Link
from reactor.testing.sockets import Listening, StreamSocket, os_error

if TYPE_CHECKING:
    from reactor.testing.kernel import SimulatedSystem

# How long Linux tries: a SYN (tcp_syn_retries 6), and unacknowledged data (tcp_retries2 15). tcp(7).
SYN_PATIENCE = 127.0
DATA_PATIENCE = 924.6
# The same for an orphan, also when only its peer's window is closed: until the time between two tries has grown to two
# minutes (tcp_orphan_retries 0; measured).
ORPHAN_PATIENCE = 330.0
# A SYN that met a full queue is sent again after so long, then twice as long; a SYN-ACK, too, but 5 times at most
# (tcp_synack_retries).
SYN_RETRY = 1.0
SYN_ACK_LAST = 16.0


class TcpSocket(StreamSocket):
    """One end of a TCP connection."""

    __slots__ = (
        "connecting",
        "dead",
        "fin_acked",
        "fin_came_first",
        "fin_posted",
        "in_flight",
        "last_due",
        "link",
        "listener",
        "orphan",
        "out",
        "patience",
        "receive_capacity",
        "soft_error",
        "waits_since",
        "was_disconnected",
        "was_reset",
        "watch",
    )

    def __init__(self, kernel: SimulatedSystem, family: int, local: Any, remote: Any, link: Link) -> None:
        super().__init__(kernel, family, local, remote)
        self.link = link
        self.capacity = link.send_buffer_bytes
        self.receive_capacity = link.receive_buffer_bytes
        # Accepted by us and not acknowledged; the first `in_flight` bytes of it are on their way.
        self.out = bytearray()
        self.in_flight = 0
        self.fin_posted = self.fin_acked = self.fin_came_first = False
        self.connecting = False
        # Reset, refused, timed out: nothing comes or goes any more.
        self.dead = False
        # A reset from the peer arrived.
        self.was_reset = False
        # The program closed it; the kernel still sends what it had accepted.
        self.orphan = False
        self.was_disconnected = False
        # Packets of one direction arrive in order.
        self.last_due = 0.0
        # How long our output may stay unacknowledged, and since when nothing of it was acknowledged.
        self.patience = math.inf
        self.waits_since = 0.0
        self.watch: Any = None  # the event that looks at both
        # What ICMP has said, and SO_ERROR has not told.
        self.soft_error = 0
        self.listener: Listening | None = None

    @property
    def over(self) -> bool:
        """Both sides have ended, and ours is acknowledged: TIME-WAIT, or CLOSED."""
        return self.fin_acked and self.fin_received

    def events(self) -> int:
        if self.connecting:
            return 0
        events = self.error_event()
        if self.dead:
            return events | READ | WRITE | HANGUP
        if self.inbox or self.fin_received:
            events |= READ
        if self.shut:
            events |= WRITE | HANGUP if self.fin_received else WRITE
        elif 3 * len(self.out) <= 2 * self.capacity:
            events |= WRITE
        return events

    # What the program calls

    def answer_so_error(self) -> int:
        number = self.take_error()
        if not number:
            number, self.soft_error = self.soft_error, 0
        return number

    def check_send(self) -> None:
        if self.error_number:
            raise os_error(self.take_error())
        if self.shut or self.dead:
            raise os_error(errno.EPIPE)

    def room(self) -> int:
        return 0 if self.connecting else self.capacity - len(self.out)

    def put(self, data: bytes) -> None:
        self.owe()
        self.out += data
        self.transmit()

    def recv_nothing(self) -> bytes:
        if self.fin_received:
            return b""
        if self.error_number:
            raise os_error(self.take_error())
        if self.dead:
            return b""
        raise os_error(errno.EAGAIN)

    def was_read(self) -> None:
        if not self.dead and self.peer is not None and self.peer.out:
            self.kernel.post(self, self.peer.window_opened)

    def getpeername(self) -> Any:
        self.check("getpeername")
        if self.dead or self.connecting or self.over:
            raise os_error(errno.ENOTCONN)
        return self.remote

    def shutdown_output(self) -> None:
        self.check("shutdown")
        if self.dead or self.connecting or self.over:
            raise os_error(errno.ENOTCONN)
        self.end_output()
        self.kernel.pump()

    def end_output(self) -> None:
        if not self.shut:
            self.owe()
            self.shut = True
            self.fin_came_first = self.fin_received
            self.transmit()
            self.touch()

    def outstanding(self) -> int:
        """SIOCOUTQ (K9). A reset does not change it: what was not acknowledged by then never will be."""
        return len(self.out) + (self.shut and not self.fin_acked)

    def state(self) -> str:
        """The state of RFC 9293."""
        if self.dead or self.over:
            return "CLOSED"
        if self.connecting:
            return "SYN-SENT"
        if not self.shut:
            return "CLOSE-WAIT" if self.fin_received else "ESTABLISHED"
        if self.fin_acked:
            return "FIN-WAIT-2"
        if not self.fin_received:
            return "FIN-WAIT-1"
        return "LAST-ACK" if self.fin_came_first else "CLOSING"

    def disconnect(self) -> None:
        """connect(2) with AF_UNSPEC: a reset, whoever has copies of the descriptor; not after both FINs."""
        if not self.dead and not (self.fin_received and self.fin_posted):
            self.was_disconnected = True
            self.send_reset()
            self.kernel.pump()

    def end(self) -> None:
        if self.dead or self.over:
            return
        if self.connecting or self.inbox:
            self.send_reset()
        else:
            self.orphan = True
            self.end_output()
        self.kernel.pump()
        if self.orphan and not self.dead and self.outstanding():
            self.patience = min(self.patience, ORPHAN_PATIENCE)
            self.watch_patience()

    def vanish(self) -> None:
        self.released = True
        if not self.dead:
            self.send_reset()

    # What the kernel does

    def transmit(self) -> None:
        """Sends what the peer's window takes, and our FIN behind the last byte."""
        peer, post = self.peer, self.kernel.post
        if self.dead or self.connecting:
            return
        room: int = peer.receive_capacity - len(peer.inbox) - self.in_flight
        while True:
            count = min(len(self.out) - self.in_flight, room, self.link.segment_bytes)
            if count <= 0:
                break
            data = bytes(self.out[self.in_flight : self.in_flight + count])
            self.in_flight += count
            room -= count
            post(self, peer.data_arrived, data)
        if self.shut and not self.fin_posted and self.in_flight == len(self.out):
            self.fin_posted = True
            post(self, peer.fin_arrived)

    def data_arrived(self, data: bytes) -> None:
        if self.dead or self.orphan:
            # Nobody will read it: the sender must not believe that it was taken.
            self.refuse()
            return
        self.take_in(data)
        self.kernel.post(self, self.peer.acknowledged, len(data))

    def acknowledged(self, count: int) -> None:
        if self.dead:
            return
        del self.out[:count]
        self.in_flight -= count
        self.was_acknowledged()
        self.transmit()
        self.touch()

    def window_opened(self) -> None:
        if self.dead:
            self.refuse()
        else:
            self.transmit()

    def fin_arrived(self) -> None:
        if self.dead:
            self.refuse()
            return
        self.fin_received = True
        self.soft_error = 0
        self.kernel.post(self, self.peer.fin_acknowledged)
        self.touch()

    def fin_acknowledged(self) -> None:
        self.fin_acked = True
        self.was_acknowledged()
        self.touch()

    def was_acknowledged(self) -> None:
        self.soft_error = 0
        self.waits_since = self.kernel.now
        if not self.outstanding():
            self.stop_watching()

    def refuse(self) -> None:
        if not self.dead or not self.peer.dead:
            self.send_reset()

    def send_reset(self) -> None:
        self.dead = True
        self.stop_watching()
        if self.peer is not None:
            self.kernel.post(self, self.peer.reset_arrived)

    def reset_arrived(self) -> None:
        if self.dead or self.over:
            return
        if self.connecting:
            self.fail(errno.ECONNREFUSED)
            return
        self.was_reset = True
        self.fail(errno.EPIPE if self.fin_received and not self.shut else errno.ECONNRESET)

    def fail(self, number: int) -> None:
        """The kernel gives up: a reset, a refusal, or nobody answered."""
        if self.dead:
            return
        self.connecting = False
        self.dead = True
        self.stop_watching()
        if not self.orphan:
            self.error_number = number
            self.touch()

    def unreachable(self, number: int) -> None:
        """ICMP says, for a moment, that the peer is not to be reached."""
        if self.dead or self.over or self.connecting:
            return
        if self.queues_errors:
            self.error_number = number
            self.touch()
        else:
            self.soft_error = number

    # Giving up

    def owe(self) -> None:
        """Output is to come: from now on the peer's TCP owes us an acknowledgement, if it did not before."""
        if not self.outstanding():
            self.waits_since = self.kernel.now
        if self.watch is None:
            self.watch_patience()

    def cut_off(self) -> None:
        """Packets of this connection are lost from now on. Without an answer the kernel gives up at some time.

        A closed window alone is no reason: probes of it are answered. Only TCP_USER_TIMEOUT counts that, too (tcp(7)),
        and so does the kernel for an orphan.
        """
        if self.patience == math.inf:
            self.patience = DATA_PATIENCE
            self.waits_since = self.kernel.now
        if self.watch is None:
            self.watch_patience()

    def watch_patience(self) -> None:
        """Arms the look at whether it is lost, in place of the one that was armed."""
        self.stop_watching()
        if self.patience < math.inf:
            left = max(0.0, self.waits_since + self.patience - self.kernel.now)
            self.watch = self.kernel.after(left, self.lose_patience)

    def stop_watching(self) -> None:
        if self.watch is not None:
            self.kernel.cancel(self.watch)
            self.watch = None

    def lose_patience(self) -> None:
        """Gives up, unless something was acknowledged meanwhile."""
        self.watch = None
        if self.dead or not self.outstanding():
            return
        if self.waits_since + self.patience <= self.kernel.now:
            self.timed_out()
        else:
            self.watch_patience()

    # The handshake

    def syn(self, patience: float = SYN_PATIENCE, retry: float = SYN_RETRY) -> None:
        """A SYN of ours arrives: at a listener, or at nobody's door."""
        kernel = self.kernel
        if self.dead:
            return
        listener = kernel.listening.find(self.remote)
        if listener is None or listener.released:
            kernel.post(self, self.refused)
        elif listener.full:
            # Dropped, and sent again; the last silence is told as a time-out.
            if patience > retry:
                kernel.after(retry, self.syn, patience - retry, 2 * retry)
            else:
                kernel.after(patience, self.timed_out)
        else:
            child = kernel.child(self, listener)
            kernel.post(child, self.syn_acknowledged, child)

    def refused(self) -> None:
        self.reset_arrived()

    def timed_out(self) -> None:
        self.fail(errno.ETIMEDOUT)

    def syn_acknowledged(self, child: TcpSocket) -> None:
        if self.dead:
            self.kernel.post(self, child.reset_arrived)
            return
        self.connecting = False
        self.peer, child.peer = child, self
        self.kernel.post(self, child.established)
        self.touch()

    def established(self, retry: float = SYN_RETRY) -> None:
        """The ACK of our SYN-ACK arrives. Into a queue that is full by now it is dropped, and asked for again."""
        listener = self.listener
        assert listener is not None
        if self.dead:
            return
        if listener.released:
            self.vanish()
        elif not listener.full:
            listener.admit(self)
        elif retry <= SYN_ACK_LAST:
            self.kernel.after(retry, self.established, 2 * retry)
        else:
            self.dead = True  # nobody is told; what the caller sends from now on is answered by a reset

    def __repr__(self) -> str:
        return (
            f"<tcp {self.place} {self.local}-{self.remote} {self.state()} unread={len(self.inbox)}"
            f" unacknowledged={self.outstanding()} interest={self.interest}>"
        )
