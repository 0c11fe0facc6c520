"""asynchat: a server of lines, which answers in capitals. Python 3.11 and earlier."""

import asynchat
import asyncore
import sys


class Session(asynchat.async_chat):
    def __init__(self, sock):
        super().__init__(sock)
        self.set_terminator(b"\r\n")
        self.collected = []

    def collect_incoming_data(self, data):
        self.collected.append(data)

    def found_terminator(self):
        line = b"".join(self.collected)
        self.collected.clear()
        if line == b"quit":
            self.push(b"bye\r\n")
            self.close_when_done()
        else:
            self.push(line.upper() + b"\r\n")


class Server(asyncore.dispatcher):
    def __init__(self, port):
        super().__init__()
        self.create_socket()
        self.set_reuse_addr()
        self.bind(("127.0.0.1", port))
        self.listen(5)

    def handle_accepted(self, sock, address):
        Session(sock)


if __name__ == "__main__":
    server = Server(int(sys.argv[1]))
    print(server.socket.getsockname()[1], flush=True)
    asyncore.loop()
