"""What waits to be sent: whole chunks, a running count, and no byte copied twice.

A chunk is immutable once it is in the queue; what was partly sent stays as a view of the rest. The count is kept, never
summed: a writer may ask for it on each write. An empty queue holds no container, because most connections are idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer  # the standard library has it from 3.12 on

Chunk: TypeAlias = "bytes | memoryview"

# Chunks in one sendmsg(2): Linux takes 1,024 (IOV_MAX); past some dozens a further one saves no system call worth it.
CHUNKS_PER_SEND = 64
# A queue of no more than this is joined before it is sent. Measured: 16 lines of 60 bytes joined and sent cost 0.8 us
# less than a sendmsg of them; at 16 KiB chunks the copy costs more than it saves.
JOIN_BYTES = 16 * 1024


def as_view(data: Buffer) -> memoryview:
    """The bytes of any bytes-like object, as a flat view of single bytes, copied only if they are not contiguous.

    TypeError names what cannot be written.
    """
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"only bytes-like objects can be written, not {type(data).__name__}") from None
    if not view.c_contiguous or not view.nbytes:
        view = memoryview(view.tobytes())
    return view.cast("B")


class SendQueue:
    """A queue of chunks that goes out in pieces of the kernel's choosing."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self.size = 0
        self._chunks: deque[Chunk] | None = None

    def append(self, data: Chunk) -> None:
        """Adds immutable bytes at the end. Empty ones leave no trace."""
        if not data:
            return
        if self._chunks is None:
            self._chunks = deque((data,))
        else:
            self._chunks.append(data)
        self.size += len(data)

    def head(self, limit_bytes: int) -> Sequence[Chunk]:
        """The first chunks, for one send: about `limit_bytes`, never none while something waits.

        Small ones are joined to one, and stay so: copying them costs less than telling the kernel of each.
        """
        chunks = self._chunks
        if chunks is None:
            return ()
        if self.size <= JOIN_BYTES and len(chunks) > 1:
            self._chunks = chunks = deque((b"".join(chunks),))
        if len(chunks) == 1 or len(chunks[0]) >= limit_bytes:
            only = chunks[0]
            return (only if len(only) <= limit_bytes else memoryview(only)[:limit_bytes],)
        first = []
        for chunk in islice(chunks, CHUNKS_PER_SEND):
            if len(chunk) > limit_bytes:
                break
            first.append(chunk)
            limit_bytes -= len(chunk)
        return first

    def advance(self, count: int) -> None:
        """Drops the first `count` bytes: the kernel has taken them."""
        assert 0 <= count <= self.size, f"{count} bytes taken out of {self.size}"
        self.size -= count
        if not self.size:
            self._chunks = None
            return
        chunks = self._chunks
        assert chunks is not None
        while count >= len(chunks[0]):
            count -= len(chunks.popleft())
        if count:
            chunks[0] = memoryview(chunks[0])[count:]

    def clear(self) -> int:
        """Drops everything; returns how many bytes that was."""
        dropped, self.size, self._chunks = self.size, 0, None
        return dropped
