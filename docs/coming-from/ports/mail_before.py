"""smtpd: a server that prints who writes to whom. Python 3.11 and earlier."""

import asyncore
import smtpd
import sys


class Postman(smtpd.SMTPServer):
    def process_message(self, peer, mailfrom, rcpttos, data, **kwargs):
        print(f"{mailfrom} writes {len(data)} bytes to {', '.join(rcpttos)}", flush=True)


if __name__ == "__main__":
    postman = Postman(("127.0.0.1", int(sys.argv[1])), None)
    print(postman.socket.getsockname()[1], flush=True)
    asyncore.loop()
