"""asyncio, with protocols, its layer for those who care how a connection ends.

Switched on: `eof_received` returns true where the connection stays half open; `write_eof`. SIGTERM leaves
`async with server`, which closes it and waits for `wait_closed`, which since Python 3.12 waits for the connections.
There is no setting for how long a close may take.
"""

import asyncio
import logging
import signal

from benchmarks.closing.adapters.job import BACKLOG, HOST, Job
from benchmarks.closing.adapters.protocols import factory


async def serve(job: Job) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(factory(job, loop.call_later), HOST, 0, backlog=BACKLOG)
    async with server:
        job.listening(server.sockets[0].getsockname()[1])
        await stopped.wait()


if __name__ == "__main__":
    logging.basicConfig()
    asyncio.run(serve(Job.from_command_line()))
