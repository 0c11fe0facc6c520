"""uvloop: the same program as asyncio's, on its loop."""

import uvloop

from benchmarks.adapters.asyncio_ import serve

uvloop.run(serve())
