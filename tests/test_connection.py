"""Connections over real sockets, on every poller."""

from tests.helpers import Server


def test_an_echo_comes_back_and_ends_in_order_when_the_client_ends(reactor):
    """What was written is echoed, the client's FIN is answered by ours, and nothing is lost."""
    from tests.helpers import Recorder

    class Echo(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.connection.write(data)

    server = Server(reactor, Echo)
    with server.peer() as peer:
        peer.send(b"hello")
        peer.fin()
        assert peer.read_to_end() == "EOF"
        assert peer.data == b"hello"
    (protocol,) = server.protocols
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.lost is None
    assert protocol.report.acknowledged == 5
