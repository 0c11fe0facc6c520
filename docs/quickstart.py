from reactor import Protocol, Reactor


class Echo(Protocol):
    def data_received(self, data):
        self.connection.write(data)  # Protocol.connection_made keeps the connection


with Reactor() as reactor:
    listener = reactor.listen(Echo, "127.0.0.1", 7000)  # port 0 picks one; listener.addresses tells
    print("listening on", *listener.addresses)
    reactor.drain_on_signals(deadline=30)  # SIGTERM/SIGINT drain; a second one stops at once
    reactor.run()
