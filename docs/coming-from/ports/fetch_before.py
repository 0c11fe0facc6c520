"""asyncore: a client that fetches a page by HTTP/1.0, which ends with the connection. Python 3.11 and earlier."""

import asyncore
import sys


class Fetch(asyncore.dispatcher):
    def __init__(self, host, port, path):
        super().__init__()
        self.waiting = f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
        self.received = b""
        self.create_socket()
        self.connect((host, port))

    def writable(self):
        return bool(self.waiting)

    def handle_write(self):
        sent = self.send(self.waiting)
        self.waiting = self.waiting[sent:]

    def handle_read(self):
        self.received += self.recv(8192)

    def handle_close(self):
        print(f"{len(self.received)} bytes")
        self.close()


if __name__ == "__main__":
    Fetch(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    asyncore.loop()
