"""The send queue."""

from __future__ import annotations

import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.buffers import CHUNKS_PER_SEND, EMPTY, JOIN_BYTES, FileRange, SendQueue, as_view


def test_an_empty_queue_holds_nothing():
    """No container, no size, no head."""
    queue = SendQueue()
    assert queue.size == 0
    assert not queue.head(10)
    assert queue.clear() == 0


def test_empty_chunks_leave_no_trace():
    """Nothing to send is nothing queued."""
    queue = SendQueue()
    queue.append(b"")
    assert not queue.head(10)


def test_a_chunk_taken_in_part_leaves_a_view_of_the_rest():
    """The rest of a chunk is not copied."""
    queue = SendQueue()
    data = b"hello world"
    queue.append(data)
    queue.advance(6)
    (rest,) = queue.head(100)
    assert isinstance(rest, memoryview)
    assert rest.obj is data
    assert rest == b"world"


def test_the_head_is_bounded_in_bytes_and_in_chunks():
    """One send is offered about so many bytes, in so many pieces."""
    queue, size = SendQueue(), JOIN_BYTES
    queue.append(b"x" * size)
    assert [len(chunk) for chunk in queue.head(30)] == [30]
    queue.append(b"y" * size)
    assert [len(chunk) for chunk in queue.head(size + 1)] == [size]
    assert [len(chunk) for chunk in queue.head(2 * size)] == [size, size]
    for _ in range(CHUNKS_PER_SEND):
        queue.append(b"z")
    assert len(queue.head(1 << 20)) == CHUNKS_PER_SEND


def test_small_chunks_are_joined_once():
    """A burst of lines goes out in one piece, and is not joined again for the next send."""
    queue = SendQueue()
    for _ in range(CHUNKS_PER_SEND * 2):
        queue.append(b"line\n")
    (joined,) = queue.head(1 << 20)
    assert joined == b"line\n" * CHUNKS_PER_SEND * 2
    (again,) = queue.head(1 << 20)
    assert again is joined


def test_more_than_is_queued_cannot_be_taken():
    """A kernel that takes more than it was offered is a bug of ours."""
    queue = SendQueue()
    queue.append(b"abc")
    with pytest.raises(AssertionError):
        queue.advance(4)


@given(
    st.lists(st.binary(max_size=40) | st.just(bytes(9000)), max_size=30),
    st.lists(st.tuples(st.integers(1, 60) | st.just(20000), st.floats(0, 1)), min_size=1, max_size=200),
)
def test_all_bytes_leave_in_order_however_the_kernel_takes_them(chunks, takes):
    """Whatever is offered and taken, what left and what is left make up what was queued."""
    queue = SendQueue()
    left = bytearray()
    for chunk in chunks:
        queue.append(chunk)
    whole = b"".join(chunks)
    for limit, share in takes:
        head = b"".join(queue.head(limit))
        assert head == whole[len(left) : len(left) + len(head)]
        assert bool(head) == bool(queue.size)
        taken = round(len(head) * share)
        queue.advance(taken)
        left += head[:taken]
        assert queue.size == len(whole) - len(left)
    assert queue.clear() == len(whole) - len(left)
    assert queue.size == 0


# Parts of files


def with_a_file(*chunks: bytes | int) -> tuple[SendQueue, list[int]]:
    """A queue of bytes, and of parts of files of so many bytes; and the descriptors that it has released."""
    queue: SendQueue = SendQueue()
    released: list[int] = []
    for number, chunk in enumerate(chunks):
        if isinstance(chunk, int):
            queue.append_file(FileRange(number, 100, chunk, released.append))
        else:
            queue.append(chunk)
    return queue, released


def test_a_part_of_a_file_waits_without_being_in_memory():
    """It counts as what waits, and not as what is held."""
    queue, _ = with_a_file(b"head", 1000, b"tail")
    assert (queue.size, queue.held(), queue.files, len(queue)) == (1008, 8, 1, 3)
    plain, _ = with_a_file(b"head")
    assert (plain.size, plain.held(), plain.files) == (4, 4, 0)


def test_a_part_of_a_file_goes_alone_and_in_its_place():
    """What stands before it goes first, in bounded pieces; then the file, whole; it is released when it is sent."""
    queue, released = with_a_file(b"head", 1000, b"tail")
    assert [bytes(chunk) for chunk in queue.head(3)] == [b"hea"]
    assert list(queue.head(100)) == [b"head"]
    queue.advance(4)
    (part,) = queue.head(100)
    assert isinstance(part, FileRange)
    assert (part.fd, part.offset, len(part)) == (1, 100, 1000)
    queue.advance(300)
    assert (part.offset, len(part), queue.size) == (400, 700, 704)
    assert released == []
    queue.advance(701)
    assert (released, queue.files, queue.size) == ([1], 0, 3)
    assert list(queue.head(100)) == [b"ail"]


def test_dropping_everything_releases_every_file_once():
    """What never will be sent is released as well, whatever was sent of it."""
    queue, released = with_a_file(10, b"between", 20)
    queue.advance(5)
    assert queue.clear() == 32
    assert (released, queue.files, queue.size, len(queue)) == ([0, 2], 0, 0, 0)


def test_a_queue_can_be_shown_to_another():
    """The other has the same bytes, and taking from one leaves the other."""
    queue, _ = with_a_file(b"one", b"two")
    other = SendQueue()
    assert queue.copy_to(other) == 6
    other.advance(4)
    assert (b"".join(queue.head(100)), b"".join(other.head(100))) == (b"onetwo", b"wo")


def test_a_queue_with_a_file_is_not_shown_to_another():
    """Its bytes are not here: asking for them is a bug of ours."""
    queue, _ = with_a_file(b"one", 10)
    with pytest.raises(AssertionError):
        queue.copy_to(SendQueue())


def test_the_shared_empty_queue_stays_empty():
    """Many connections have it: a byte put there would be everybody's."""
    with pytest.raises(AssertionError, match="a queue of its own"):
        EMPTY.append(b"x")
    assert (EMPTY.size, len(EMPTY)) == (0, 0)


def test_more_than_there_is_cannot_be_taken():
    """The count is never negative."""
    queue, _ = with_a_file(b"abc")
    with pytest.raises(AssertionError, match="4 bytes taken out of 3"):
        queue.advance(4)


def test_a_view_is_flat_and_copies_only_what_is_not_contiguous():
    """Strided views and arrays of numbers become their bytes; contiguous ones are not copied."""
    mutable = bytearray(b"abc")
    view = as_view(mutable)
    mutable[0] = ord("x")
    assert view == b"xbc"
    assert as_view(memoryview(b"abcdef")[::2]) == b"ace"
    assert len(as_view(array.array("i", [1, 2]))) == 2 * array.array("i").itemsize
    assert as_view(array.array("i")) == b""


@pytest.mark.parametrize("what", ["text", 7, None, ["a"]])
def test_what_is_not_bytes_is_refused_by_name(what):
    """TypeError says what was given."""
    with pytest.raises(TypeError, match=type(what).__name__):
        as_view(what)


def test_before_a_file_small_chunks_are_joined_and_large_ones_sent_together():
    """What stands in front of a file goes out in as few pieces as if the file were not there; the file comes alone."""
    released = []
    queue = SendQueue()
    large = bytes(JOIN_BYTES)
    for chunk in (b"a", b"b", large, large):
        queue.append(chunk)
    queue.append_file(FileRange(3, 0, 5, released.append))
    assert [len(chunk) for chunk in queue.head(10 * JOIN_BYTES)] == [2, JOIN_BYTES, JOIN_BYTES]
    queue.advance(2 + 2 * JOIN_BYTES)
    assert [type(chunk) for chunk in queue.head(10)] == [FileRange]
    assert queue.held() == 0
    queue.advance(5)
    assert released == [3]


def test_a_single_chunk_before_a_file_is_not_copied():
    """There is nothing to join it with."""
    queue = SendQueue()
    queue.append(b"head")
    queue.append_file(FileRange(3, 0, 5, lambda fd: None))
    (chunk,) = queue.head(100)
    assert chunk == b"head"
    assert queue.clear() == 9


@pytest.mark.parametrize("keep", range(8))
def test_the_end_of_a_queue_can_be_dropped(keep):
    """Behind any byte, within a chunk or between two."""
    queue = SendQueue()
    for chunk in (b"abc", b"de", b"fg"):
        queue.append(chunk)
    assert queue.truncate(keep) == 7 - keep
    assert queue.size == keep
    assert b"".join(queue.head(100)) == b"abcdefg"[:keep]


def test_all_of_a_short_queue_of_large_chunks_is_one_send():
    """As they are, not joined."""
    queue = SendQueue()
    large = bytes(JOIN_BYTES)
    queue.append(large)
    queue.append(large)
    assert list(queue.head(1 << 20)) == [large, large]
