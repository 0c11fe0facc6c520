"""uvloop: asyncio's adapter on uvloop's loop, as `uvloop.run` does it. Switched on: as in asyncio's."""

import logging

import uvloop

from benchmarks.closing.adapters.asyncio_ import serve
from benchmarks.closing.adapters.job import Job

if __name__ == "__main__":
    logging.basicConfig()
    uvloop.run(serve(Job.from_command_line()))
