"""The file server: finding files, conditions, ranges, answers, and the server as people use it."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from email import message_from_bytes
from html.parser import HTMLParser
from pathlib import Path

import pytest
import trustme

from reactor import Deadlines, Listener, Options, Reactor
from reactor.testing import Link, SimulatedSystem
from samples.files import conditions, listing, ranges
from samples.files.command import main
from samples.files.conditions import Validators
from samples.files.media import content_type
from samples.files.ranges import Span
from samples.files.site import Content, Site, serve
from samples.files.tree import Entry, Refused, Tree, path_of
from samples.web import Request, Response
from tests.helpers import Peer, turn_until
from tests.samples.processes import ROOT, read_to_end, wait_for

# RFC 9110's own example of a date.
NOW = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


# Paths


@pytest.mark.parametrize(
    ("text", "names", "slash"),
    [
        ("/", (), True),
        ("/a", ("a",), False),
        ("/a/b.txt", ("a", "b.txt"), False),
        ("/a/", ("a",), True),
        ("/a%20b", ("a b",), False),
        ("/a+b", ("a+b",), False),
        ("/%C3%A9", ("é",), False),
        ("/%ff", ("\udcff",), False),
        ("/a..", ("a..",), False),
        ("/a%5c..%5cetc", ("a\\..\\etc",), False),
        ("/%252e%252e", ("%2e%2e",), False),
        ("/%c0%ae%c0%ae", ("\udcc0\udcae\udcc0\udcae",), False),
        ("/.well-known/x", (".well-known", "x"), False),
    ],
)
def test_a_path_becomes_names(text: str, names: tuple[str, ...], slash: bool):
    """Percent-encoding is undone once, to the bytes of a name; nothing else is interpreted."""
    path = path_of(text)
    assert (path.names, path.slash) == (names, slash)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("*", 400),
        ("a", 400),
        ("host:80", 400),
        ("ftp://host/a", 400),
        ("/a#b", 400),
        ("/%", 400),
        ("/%4", 400),
        ("/%zz", 400),
        ("/a%00b", 400),
        ("/a%2fb", 400),
        ("/a%2Fb", 400),
        ("/.", 400),
        ("/..", 400),
        ("/../etc/passwd", 400),
        ("/a/../b", 400),
        ("/a/..", 400),
        ("/%2e%2e/etc/passwd", 400),
        ("/%2E./etc/passwd", 400),
        ("/..%2f..%2fetc", 400),
        ("//", 404),
        ("//etc/passwd", 404),
        ("/a//b", 404),
        ("/.git/config", 404),
        ("/a/.htpasswd", 404),
        ("/%2egit/config", 404),
        ("/...", 404),
        ("/..\\..\\etc", 404),
        ("/..;/etc", 404),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(text: str, status: int):
    """Before anything is looked up."""
    with pytest.raises(Refused) as refused:
        path_of(text)
    assert refused.value.status == status


# The tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory to serve, with things beside it that must not be."""
    (tmp_path / "secret").write_text("secret")
    made = tmp_path / "site"
    (made / "sub" / "deeper").mkdir(parents=True)
    (made / "sub" / "page.html").write_text("<p>page")
    (made / "a.txt").write_text("0123456789")
    (made / ".hidden").write_text("hidden")
    (made / "empty").touch()
    (made / "closed").write_text("closed")
    return made


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    made = Tree(str(root))
    yield made
    made.close()


def read(tree: Tree, *names: str) -> bytes:
    with tree.find(names) as found:
        assert not found.is_directory
        return os.read(found.fd, 100)


def refusal(tree: Tree, *names: str) -> int:
    with pytest.raises(Refused) as refused:
        tree.find(names)
    return refused.value.status


def test_files_and_directories_are_found(tree: Tree):
    """By their names, from the root down."""
    assert read(tree, "a.txt") == b"0123456789"
    assert read(tree, "sub", "page.html") == b"<p>page"
    for names in ((), ("sub",), ("sub", "deeper")):
        with tree.find(names) as found:
            assert found.is_directory


@pytest.mark.parametrize(
    "names", [("none",), ("a.txt", "b"), ("sub", "none", "x"), ("n" * 300,), ("é\udcff",), ("sub\\page.html",)]
)
def test_what_is_not_there_is_404(tree: Tree, names: tuple[str, ...]):
    """Also a name that no file can have, and a file that is asked for as a directory."""
    assert refusal(tree, *names) == 404


LINKS = {
    # target: what it leads to, or the status
    "a.txt": b"0123456789",
    "./sub/../a.txt": b"0123456789",
    "sub/page.html": b"<p>page",
    "sub/deeper/../page.html": b"<p>page",
    "{root}/a.txt": b"0123456789",
    "{root}/sub/../a.txt": b"0123456789",
    ".hidden": b"hidden",
    "../site/a.txt": 403,
    "../secret": 403,
    "sub/../../secret": 403,
    "{root}/../secret": 403,
    "{root}-other": 403,
    "/etc/passwd": 403,
    "/": 403,
    "..": 403,
    "none": 404,
    "link": 404,
    "a.txt/..": 404,
}


@pytest.mark.parametrize("target", LINKS)
def test_a_link_is_followed_inside_and_nowhere_else(root: Path, tree: Tree, target: str):
    """Step by step: a link that leaves the tree by ".." is refused even if it would come back."""
    (root / "link").symlink_to(target.format(root=root))
    expected = LINKS[target]
    if isinstance(expected, int):
        assert refusal(tree, "link") == expected
    else:
        assert read(tree, "link") == expected


@pytest.mark.parametrize("target", ["{root}", "{root}/", ".", "sub/.."])
def test_a_link_may_lead_to_the_root_itself(root: Path, tree: Tree, target: str):
    """That is inside, and what is asked for behind it as well."""
    (root / "link").symlink_to(target.format(root=root))
    assert read(tree, "link", "link", "a.txt") == b"0123456789"


@pytest.fixture
def around(root: Path) -> Path:
    """The directory around the tree, with links beside the tree that lead to it, past it and nowhere."""
    around = root.parent
    for name, target in (
        ("alias", "site"),
        ("again", "around/alias"),
        ("around", str(around)),
        ("inner", "site/sub"),
        ("past", "."),
        ("gone", "none"),
        ("turning", "turning"),
    ):
        (around / name).symlink_to(target)
    (around / "beside").mkdir()
    return around


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("{around}/alias/a.txt", b"0123456789"),
        ("{around}/alias/sub/../a.txt", b"0123456789"),
        ("{around}/again//./a.txt/", b"0123456789"),
        ("{around}/past/past/site/a.txt", b"0123456789"),
        ("{around}/beside/../site/a.txt", b"0123456789"),
        ("{around}/inner/page.html", b"<p>page"),
        ("{around}/alias/none", 404),
        ("{around}/alias/../secret", 403),
        ("{around}/alias/../alias/a.txt", 403),
        ("{around}/past/secret", 403),
        ("{around}/past/secret/a.txt", 403),
        ("{around}/gone/a.txt", 403),
        ("{around}/turning/a.txt", 403),
        ("{around}/beside", 403),
        ("../alias/a.txt", 403),
    ],
)
def test_an_absolute_link_may_lead_into_the_tree_through_links(
    no_descriptor_left: None, root: Path, around: Path, target: str, expected: bytes | int
):
    """A tree that is known by several names is one tree; what its links name outside of it is refused, there or not."""
    (root / "link").symlink_to(target.format(around=around))
    for name in ("site", "alias", "again"):
        tree = Tree(str(around / name))
        try:
            if isinstance(expected, int):
                assert refusal(tree, "link") == expected
            else:
                assert read(tree, "link") == expected
        finally:
            tree.close()


@pytest.mark.parametrize("names", [("alias", "a.txt"), ("site", "a.txt"), ("secret",), ("none",)])
def test_a_request_finds_no_way_back_from_outside(root: Path, around: Path, tree: Tree, names: tuple[str, ...]):
    """Only a link's own target is followed outside of the tree; what is asked for behind such a link is refused."""
    (root / "link").symlink_to(around / "past")
    assert refusal(tree, "link", *names) == 403
    assert "link" not in {entry.name for entry in tree.entries((), 100)[0]}


def test_links_outside_count_with_those_inside(root: Path, around: Path, tree: Tree):
    """Forty on one way, wherever they lie."""
    for number in range(20):
        (around / f"out{number}").symlink_to(f"out{number - 1}" if number else root)
        (root / f"in{number}").symlink_to(f"in{number - 1}" if number else around / "out19" / "a.txt")
    (root / "one-more").symlink_to("in19")
    assert read(tree, "in19") == b"0123456789"
    assert refusal(tree, "one-more") == 403


def test_no_descriptor_for_a_way_outside_is_told_as_such(
    root: Path, around: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    """503, and not that the link leads outside."""
    (root / "link").symlink_to(around / "alias" / "a.txt")
    really_open = os.open

    def fails(name, *where, **how):
        if name == around.name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return really_open(name, *where, **how)

    monkeypatch.setattr(os, "open", fails)
    assert refusal(tree, "link") == 503


@pytest.mark.parametrize(("target", "status"), [("..", 403), ("/", 403), ("sub", 404), ("../site", 403)])
def test_a_linked_directory_is_walked_like_any_other(root: Path, tree: Tree, target: str, status: int):
    """What is asked for behind a link that leads outside is refused, there or not."""
    (root / "link").symlink_to(target)
    assert refusal(tree, "link", "secret") == status


def test_links_to_links_have_an_end(root: Path, tree: Tree):
    """After 40, as in the kernel; a chain that is shorter leads to its file."""
    (root / "link0").symlink_to("a.txt")
    for number in range(1, 42):
        (root / f"link{number}").symlink_to(f"link{number - 1}")
    assert read(tree, "link39") == b"0123456789"
    assert refusal(tree, "link40") == 404


def test_the_depth_has_an_end(root: Path, tree: Tree):
    """A request cannot make us hold more than some descriptors."""
    deep = root.joinpath(*["d"] * 70)
    deep.mkdir(parents=True)
    with tree.find(["d"] * 64) as found:
        assert found.is_directory
    assert refusal(tree, *["d"] * 65) == 404


def test_special_files_are_not_opened(root: Path, tree: Tree):
    """403, at once: to open a FIFO would wait for its writer, or wake one that waits."""
    os.mkfifo(root / "fifo")
    (root / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "socket"))
        assert [refusal(tree, name) for name in ("fifo", "device", "socket")] == [403, 403, 403]
        entries, _ = tree.entries((), 100)
        assert not {"fifo", "device", "socket"} & {entry.name for entry in entries}


def test_a_fifo_in_a_files_place_at_the_last_moment_is_not_waited_for(
    root: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    """It is opened without waiting, seen for what it is, and closed."""
    look = os.stat

    def too_early(name, **how):
        status = look(name, **how)
        if name == "a.txt":
            (root / "a.txt").unlink()
            os.mkfifo(root / "a.txt")
        return status

    monkeypatch.setattr(os, "stat", too_early)
    assert refusal(tree, "a.txt") == 403


def test_a_link_in_a_directorys_place_at_the_last_moment_is_not_followed(
    root: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    """O_NOFOLLOW: between the look and the open nobody can lead us out."""
    look = os.stat

    def too_early(name, **how):
        status = look(name, **how)
        if name == "sub":
            (root / "sub").rename(root / "was-sub")
            (root / "sub").symlink_to("..")
        return status

    monkeypatch.setattr(os, "stat", too_early)
    assert refusal(tree, "sub", "secret") == 404


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.EACCES, 403), (errno.EMFILE, 503), (errno.ENFILE, 503), (errno.EIO, 500), (errno.EWOULDBLOCK, 503)],
)
def test_an_error_of_the_system_becomes_a_status(
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    status: int,
):
    """What is nobody's fault but the machine's is logged as well."""

    def fails(*where, **how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fails)
    assert refusal(tree, "a.txt") == status
    assert ("Input/output error" in caplog.text) == (status == 500)


def test_entries_are_what_would_be_served(root: Path, tree: Tree):
    """Directories first, then by name without regard to case; nothing hidden, nothing that leads outside."""
    (root / "B.txt").write_text("bb")
    (root / "in").symlink_to("a.txt")
    (root / "indir").symlink_to("sub")
    for name, target in (("out", "../secret"), ("broken", "none"), ("loop", "loop")):
        (root / name).symlink_to(target)
    entries, complete = tree.entries((), 100)
    assert [(entry.name, entry.is_directory, entry.size) for entry in entries if not entry.is_directory] == [
        ("a.txt", False, 10),
        ("B.txt", False, 2),
        ("closed", False, 6),
        ("empty", False, 0),
        ("in", False, 10),
    ]
    assert [entry.name for entry in entries if entry.is_directory] == ["indir", "sub"]
    assert [entry.is_directory for entry in entries] == [True] * 2 + [False] * 5
    assert complete
    for most, complete in ((11, True), (10, False), (3, False)):  # the hidden and the unserved count
        entries, told = tree.entries((), most)
        assert told is complete
        assert len(entries) <= most


def test_the_tree_is_the_directory_and_not_its_name(root: Path, tree: Tree):
    """Another one in its place is not served."""
    root.rename(root.with_name("moved"))
    root.mkdir()
    assert read(tree, "a.txt") == b"0123456789"


# Ranges


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        ("bytes=0-0", 10, [Span(0, 1)]),
        ("bytes=0-9", 10, [Span(0, 10)]),
        ("bytes=2-5", 10, [Span(2, 4)]),
        ("bytes=2-500", 10, [Span(2, 8)]),
        ("bytes=9-", 10, [Span(9, 1)]),
        ("bytes=0-", 10, [Span(0, 10)]),
        ("bytes=-1", 10, [Span(9, 1)]),
        ("bytes=-500", 10, [Span(0, 10)]),
        ("BYTES=1-2", 10, [Span(1, 2)]),
        ("bytes= 1-2 ,\t4-5", 10, [Span(1, 2), Span(4, 2)]),
        ("bytes=,1-2,,", 10, [Span(1, 2)]),
        ("bytes=4-5,0-1", 10, [Span(4, 2), Span(0, 2)]),
        ("bytes=0-1,50-60", 10, [Span(0, 2)]),
        ("bytes=0-" + "9" * 5000, 10, [Span(0, 10)]),
        ("bytes=" + "0" * 5000 + "1-2", 10, [Span(1, 2)]),
        # Nothing of it is there.
        ("bytes=10-", 10, []),
        ("bytes=10-20", 10, []),
        ("bytes=-0", 10, []),
        ("bytes=0-", 0, []),
        ("bytes=0-0", 0, []),
        ("bytes=" + "9" * 5000 + "-", 10, []),
        ("bytes=20-30,40-50", 10, []),
        # Ignored.
        ("bytes=-5", 0, None),
        ("bytes=5-2", 10, None),
        ("bytes=0-1,5-2", 10, None),
        ("bytes=", 10, None),
        ("bytes=,", 10, None),
        ("bytes=-", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=1", 10, None),
        ("bytes=--1", 10, None),
        ("bytes=1-2-3", 10, None),
        ("bytes=+1-2", 10, None),
        ("bytes=\u0661-\u0662", 10, None),
        ("bytes 1-2", 10, None),
        ("lines=1-2", 10, None),
        ("1-2", 10, None),
        ("", 10, None),
        ("bytes=0-,0-", 10, None),
        ("bytes=" + ",".join(["0-0"] * 17), 100, None),
    ],
)
def test_a_range_field_becomes_spans(value: str, size: int, expected: list[Span] | None):
    """First to last, open, suffix, several; malformed or greedy is ignored; nothing there is nothing."""
    assert ranges.spans(value, size) == expected


# Conditions

STRONG = Validators('"x"', NOW)
WEAK = Validators('W/"x"', NOW)
NEITHER = Validators()
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"


@pytest.mark.parametrize(
    ("ours", "fields", "status"),
    [
        (STRONG, {}, None),
        (STRONG, {"if-match": '"x"'}, None),
        (STRONG, {"if-match": '"y", "x"'}, None),
        (STRONG, {"if-match": "*"}, None),
        (STRONG, {"if-match": '"y"'}, 412),
        (STRONG, {"if-match": 'W/"x"'}, 412),
        (STRONG, {"if-match": "x"}, 412),
        (STRONG, {"if-match": ""}, 412),
        (WEAK, {"if-match": 'W/"x"'}, 412),
        (WEAK, {"if-match": "*"}, None),
        (NEITHER, {"if-match": "*"}, None),
        (NEITHER, {"if-match": '"x"'}, 412),
        (STRONG, {"if-unmodified-since": DATE}, None),
        (STRONG, {"if-unmodified-since": LATER}, None),
        (STRONG, {"if-unmodified-since": EARLIER}, 412),
        (STRONG, {"if-unmodified-since": "yesterday"}, None),
        (NEITHER, {"if-unmodified-since": EARLIER}, None),
        (STRONG, {"if-none-match": '"x"'}, 304),
        (STRONG, {"if-none-match": 'W/"x"'}, 304),
        (WEAK, {"if-none-match": '"x"'}, 304),
        (STRONG, {"if-none-match": '"a,b" , ,"x"'}, 304),
        (STRONG, {"if-none-match": "*"}, 304),
        (STRONG, {"if-none-match": '"y"'}, None),
        (STRONG, {"if-none-match": 'x, "x'}, None),
        (NEITHER, {"if-none-match": '"x"'}, None),
        (STRONG, {"if-modified-since": DATE}, 304),
        (STRONG, {"if-modified-since": LATER}, 304),
        (STRONG, {"if-modified-since": EARLIER}, None),
        (STRONG, {"if-modified-since": "0"}, None),
        (STRONG, {"if-modified-since": f"{DATE}, {DATE}"}, None),
        # Precedence.
        (STRONG, {"if-match": '"x"', "if-unmodified-since": EARLIER}, None),
        (STRONG, {"if-match": '"x"', "if-none-match": '"x"'}, 304),
        (STRONG, {"if-match": '"y"', "if-none-match": '"x"'}, 412),
        (STRONG, {"if-unmodified-since": EARLIER, "if-none-match": '"x"'}, 412),
        (STRONG, {"if-none-match": '"y"', "if-modified-since": LATER}, None),
        (STRONG, {"if-none-match": '"x"', "if-modified-since": EARLIER}, 304),
        (STRONG, {"if-unmodified-since": LATER, "if-modified-since": LATER}, 304),
    ],
)
def test_conditions_hold_in_their_order(ours: Validators, fields: dict[str, str], status: int | None):
    """RFC 9110, 13.2.2."""
    assert conditions.failed(fields, ours) == status


@pytest.mark.parametrize(
    ("ours", "value", "applies"),
    [
        (STRONG, '"x"', True),
        (STRONG, '"y"', False),
        (STRONG, 'W/"x"', False),
        (WEAK, 'W/"x"', False),
        (WEAK, '"x"', False),
        (STRONG, DATE, False),
        (NEITHER, '"x"', False),
    ],
)
def test_if_range_takes_a_strong_tag_and_nothing_else(ours: Validators, value: str, applies: bool):
    """A range of one file never completes the beginning of another."""
    assert conditions.range_applies({"if-range": value}, ours) is applies
    assert conditions.range_applies({}, ours)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (DATE, NOW),
        ("Sunday, 06-Nov-94 08:49:37 GMT", NOW),
        ("Sun Nov  6 08:49:37 1994", NOW),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37 +0100", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("1994-11-06T08:49:37Z", None),
        ("", None),
    ],
)
def test_dates_in_all_three_forms(value: str, seconds: int | None):
    """RFC 9110, 5.6.7; and the one that is sent is read back."""
    assert conditions.parse_date(value) == seconds
    assert conditions.format_date(NOW) == DATE


def stat_of(path: Path, modified: float) -> os.stat_result:
    os.utime(path, (modified, modified))
    return path.stat()


def test_a_tag_tells_every_state_of_a_file_from_the_others(root: Path):
    """Its content's time, its size and the file itself count."""
    path, now = root / "a.txt", NOW + 1000.0
    first = conditions.validators_of(stat_of(path, NOW), now)
    assert first == conditions.validators_of(stat_of(path, NOW), now)
    assert first.tag is not None
    assert re.fullmatch(r'"[0-9a-f]+-a-[0-9a-f]+"', first.tag)
    tags = {first.tag, conditions.validators_of(stat_of(path, NOW + 0.001), now).tag}
    path.write_text("0123456789a")
    tags.add(conditions.validators_of(stat_of(path, NOW), now).tag)
    tags.add(conditions.validators_of(stat_of(root / "closed", NOW), now).tag)
    assert len(tags) == 4


def test_a_fresh_file_has_a_weak_tag(root: Path):
    """It may change again within the same tick of the file system's clock."""
    status = stat_of(root / "a.txt", NOW)
    fresh, old = (conditions.validators_of(status, NOW + age) for age in (1.9, 2.0))
    assert fresh.tag == f"W/{old.tag}"


def test_a_time_in_the_future_is_not_told(root: Path):
    """Last-Modified is never later than Date (RFC 9110, 8.8.2.1)."""
    assert conditions.validators_of(stat_of(root / "a.txt", NOW + 5000), NOW).modified == NOW


def test_a_time_before_all_calendars_is_told_as_the_oldest(root: Path):
    """Some file systems take the year -1199, which no HTTP date can say; others the oldest that they have."""
    ancient = conditions.validators_of(stat_of(root / "a.txt", -99_999_999_999.0), NOW)
    assert ancient.modified == 0
    assert conditions.format_date(ancient.modified) == "Thu, 01 Jan 1970 00:00:00 GMT"


# Listings


class Page(HTMLParser):
    """The links of a page, and its text, as a browser would have them."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.links: list[str | None] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize(
    ("name", "link", "text"),
    [
        ("a b.txt", "a%20b.txt", "a b.txt"),
        ("<script>alert(1)</script>", "%3Cscript%3Ealert%281%29%3C%2Fscript%3E", "<script>alert(1)</script>"),
        ('"><img src=x>', "%22%3E%3Cimg%20src%3Dx%3E", '"><img src=x>'),
        ("javascript:alert(1)", "javascript%3Aalert%281%29", "javascript:alert(1)"),
        ("a?b#c%41", "a%3Fb%23c%2541", "a?b#c%41"),
        ("&amp;", "%26amp%3B", "&amp;"),
        ("{style}", "%7Bstyle%7D", "{style}"),
        ("é", "%C3%A9", "é"),
        ("\udcff", "%FF", "\ufffd"),
    ],
)
def test_a_name_on_a_page_is_only_a_name(name: str, link: str, text: str):
    """Whatever it looks like: escaped as text, percent-encoded as a link."""
    page = Page(listing.page(("up", name), [Entry(name, False, 1, NOW)], True))
    assert link in page.links
    assert text in page.words
    assert f"/up/{text}/" in page.words  # the title
    assert f"{text}/" in page.words
    assert not page.tags & {"script", "img"}


def test_a_page_leads_up_and_down(tree: Tree):
    """Every link is relative: the page is right wherever it is mounted."""
    page = Page(listing.page(("x", "y"), [Entry("d", True, 0, NOW), Entry("f", False, 1536, NOW)], True))
    assert page.links == ["../../", "../", "../", "d/", "f"]
    assert {"1.50 KiB", "1994-11-06 08:49", "2 entries"} <= set(page.words)
    assert Page(listing.page((), [], True)).links == []
    assert "1 entry, and more that are not listed" in Page(listing.page((), [Entry("f", False, 0, NOW)], False)).words


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10239, "10.0 KiB"),
        (102350, "100 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (5 * 1024**3, "5.00 GiB"),
        (2**63 - 1, "8.00 EiB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str):
    """A size is to be compared at a glance."""
    assert listing.size(count) == text


def test_a_time_that_no_calendar_has_is_left_out():
    """A file system can hold any number."""
    assert b"<time" not in listing.page((), [Entry("f", False, 0, 1e300)], True)


# Answers


@pytest.fixture
def pages(root: Path, tree: Tree) -> Site:
    """The tree as a site; `a.txt` is from NOW, and it is a thousand seconds later."""
    os.utime(root / "a.txt", (NOW, NOW))
    return Site(tree, clock=lambda: NOW + 1000.0)


def ask(site: Site, target: str, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and content; what would be sent from a file is read from it."""
    response = site(Request(method, target, {name.replace("_", "-"): value for name, value in fields.items()}))
    names = [name.lower() for name, _ in response.fields]
    assert len(set(names)) == len(names), "a field was given twice"
    return response.status, dict(zip(names, (value for _, value in response.fields), strict=True)), content_of(response)


def content_of(response: Response) -> bytes:
    content = b""
    for piece in response.pieces:
        if isinstance(piece, bytes):
            content += piece
            continue
        assert isinstance(piece, Content)
        with piece.file as file:
            parts = [os.pread(file.fileno(), p.count, p.offset) if isinstance(p, Span) else p for p in piece.parts]
        assert sum(map(len, parts)) == len(piece)
        content += b"".join(parts)
    return content


def test_a_file_is_answered_whole(pages: Site):
    """With its type, its validators, and what can be done with it."""
    status, fields, content = ask(pages, "/a.txt")
    assert (status, content) == (200, b"0123456789")
    assert fields.pop("etag").startswith('"')
    assert fields == {
        "content-type": "text/plain; charset=utf-8",
        "last-modified": DATE,
        "cache-control": "no-cache",
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
    }


def test_an_empty_file_is_answered_with_nothing(pages: Site):
    """That is not an error."""
    assert ask(pages, "/empty")[::2] == (200, b"")
    assert ask(pages, "/empty", range="bytes=-5")[::2] == (200, b"")
    assert ask(pages, "/empty", range="bytes=0-")[0] == 416


@pytest.mark.parametrize(
    ("method", "target", "status", "where"),
    [
        ("GET", "/none", 404, None),
        ("GET", "/a.txt/", 404, None),
        ("GET", "/.hidden", 404, None),
        ("GET", "/../secret", 400, None),
        ("GET", "*", 400, None),
        ("GET", "http://host/a.txt", 200, None),
        ("GET", "http://host/../secret", 400, None),
        ("GET", "http://host", 200, None),
        ("GET", "/a.txt?v=1", 200, None),
        ("GET", "/a.txt?/../x", 200, None),
        ("GET", "/sub", 301, "/sub/"),
        ("GET", "/sub?a=b&c", 301, "/sub/?a=b&c"),
        ("GET", "/sub/deeper", 301, "/sub/deeper/"),
        ("GET", "/s%75b", 301, "/sub/"),
        ("GET", "http://host/sub", 301, "/sub/"),
        ("GET", "//host/sub", 404, None),
        ("HEAD", "/a.txt", 200, None),
        ("POST", "/a.txt", 405, None),
        ("OPTIONS", "*", 405, None),
        ("DELETE", "/none", 405, None),
        ("CONNECT", "host:80", 405, None),
        ("get", "/a.txt", 501, None),
        ("BREW", "/a.txt", 501, None),
    ],
)
def test_statuses(pages: Site, method: str, target: str, status: int, where: str | None):
    """What is asked for, by which method, decides."""
    answered, fields, _ = ask(pages, target, method)
    assert (answered, fields.get("location")) == (status, where)
    assert fields.get("allow") == ("GET, HEAD" if status == 405 else None)


def test_a_redirect_stays_on_its_host(root: Path, pages: Site):
    """Whatever a directory is called."""
    (root / "\\evil.com").mkdir()
    (root / "a b\n").mkdir()
    assert ask(pages, "/%5cevil.com")[1]["location"] == "/%5Cevil.com/"
    assert ask(pages, "/a%20b%0a")[1]["location"] == "/a%20b%0A/"


def test_a_file_that_has_just_shrunk_is_not_answered(root: Path, pages: Site, monkeypatch: pytest.MonkeyPatch):
    """It is changing: the client comes again, and does not take what is left for what was there."""
    look = os.fstat

    def too_early(fd: int) -> os.stat_result:
        status = look(fd)
        os.truncate(root / "a.txt", 5)
        return status

    monkeypatch.setattr(os, "fstat", too_early)
    status, fields, _ = ask(pages, "/a.txt")
    assert (status, fields["retry-after"]) == (503, "1")


def test_conditions_are_asked_before_ranges(pages: Site):
    """304 and 412 win over 206 and 416; If-Range decides between 206 and the whole."""
    tag = ask(pages, "/a.txt")[1]["etag"]
    status, fields, content = ask(pages, "/a.txt", if_none_match=tag, range="bytes=50-")
    assert (status, content, fields["etag"]) == (304, b"", tag)
    assert "content-type" not in fields
    assert ask(pages, "/a.txt", if_match='"other"', range="bytes=0-1")[0] == 412
    assert ask(pages, "/a.txt", if_modified_since=DATE)[0] == 304
    assert ask(pages, "/a.txt", if_range=tag, range="bytes=0-1")[::2] == (206, b"01")
    assert ask(pages, "/a.txt", if_range='"other"', range="bytes=0-1")[::2] == (200, b"0123456789")
    assert ask(pages, "/a.txt", if_range=DATE, range="bytes=50-")[::2] == (200, b"0123456789")


def test_one_range_is_answered_with_its_place(pages: Site):
    """And one that is not there with the size."""
    status, fields, content = ask(pages, "/a.txt", range="bytes=-3")
    assert (status, fields["content-range"], content) == (206, "bytes 7-9/10", b"789")
    assert fields["content-type"] == "text/plain; charset=utf-8"
    assert fields["accept-ranges"] == "bytes"
    status, fields, _ = ask(pages, "/a.txt", range="bytes=10-")
    assert (status, fields["content-range"]) == (416, "bytes */10")


def test_head_has_no_ranges(pages: Site):
    """RFC 9110, 14.2: Range means something to GET alone."""
    status, fields, content = ask(pages, "/a.txt", "HEAD", range="bytes=0-1")
    assert (status, len(content)) == (200, 10)
    assert "content-range" not in fields


def test_several_ranges_are_parts_of_one_message(pages: Site):
    """As a MIME parser reads them; in the order in which they were asked for; without what is not there."""
    status, fields, content = ask(pages, "/a.txt", range="bytes=8-,0-2,50-")
    assert status == 206
    assert "content-range" not in fields
    kind = fields["content-type"]
    message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
    assert message.get_content_type() == "multipart/byteranges"
    assert [(part["Content-Range"], part.get_payload(decode=True)) for part in message.get_payload()] == [
        ("bytes 8-9/10", b"89"),
        ("bytes 0-2/10", b"012"),
    ]
    assert content.endswith(b"--\r\n")
    assert ask(pages, "/a.txt", range="bytes=0-0,1-1")[1]["content-type"] != kind
    assert ask(pages, "/a.txt", range="bytes=0-2,50-")[1]["content-range"] == "bytes 0-2/10"


def test_a_directory_shows_its_index_or_its_entries(root: Path, pages: Site, tree: Tree):
    """An index that is not a file is none; without listings a directory is 403."""
    status, fields, content = ask(pages, "/sub/")
    assert (status, fields["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in fields["content-security-policy"]
    assert {"deeper/", "page.html"} <= set(Page(content).links)
    assert ask(pages, "/sub/", if_none_match="*")[0] == 304
    assert ask(pages, "/sub/", if_match='"x"')[0] == 412
    silent = Site(tree, listings=False)
    assert ask(silent, "/sub/")[0] == 403
    (root / "sub" / "index.html").mkdir()
    assert ask(pages, "/sub/")[0] == 200
    (root / "sub" / "index.html").rmdir()
    (root / "sub" / "index.html").write_text("the index")
    assert ask(pages, "/sub/")[2] == b"the index"
    assert ask(silent, "/sub/")[2] == b"the index"
    (root / "sub" / "index.html").unlink()
    (root / "sub" / "index.html").symlink_to("../../secret")
    assert ask(pages, "/sub/")[0] == 403


def test_the_style_of_a_page_is_the_one_its_policy_allows():
    """Else it would be a page without style."""
    page = listing.page((), [], True)
    style = page[page.index(b"<style>") + 7 : page.index(b"</style>")]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style).digest()).decode()}'" in listing.POLICY


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("A.HTML", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.min.js", "text/javascript; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.wasm", "application/wasm"),
        ("a.svg", "image/svg+xml"),
        ("a.webp", "image/webp"),
        ("a.woff2", "font/woff2"),
        ("a.md", "text/markdown; charset=utf-8"),
        ("a.pdf", "application/pdf"),
        ("a.tar", "application/x-tar"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.txt.xz", "application/x-xz"),
        ("a.svgz", "application/gzip"),
        ("a.tar.zst", "application/zstd"),
        ("a.ogg", "audio/ogg"),
        ("a.OPUS", "audio/ogg"),
        ("a.flac", "audio/flac"),
        ("a.m4a", "audio/mp4"),
        ("a.wav", "audio/wav"),
        ("a.mp3", "audio/mpeg"),
        ("a.m4v", "video/mp4"),
        ("a.mp4", "video/mp4"),
        ("a.mkv", "video/matroska"),
        ("a.ogv", "video/ogg"),
        ("a.webm", "video/webm"),
        ("a.vtt", "text/vtt; charset=utf-8"),
        ("a.m3u8", "application/vnd.apple.mpegurl"),
        ("a.avif", "image/avif"),
        ("a.ico", "image/vnd.microsoft.icon"),
        ("a.jxl", "image/jxl"),
        ("a.xhtml", "application/xhtml+xml"),
        ("a.js.map", "application/json"),
        ("a.webmanifest", "application/manifest+json"),
        ("a.rss", "application/rss+xml"),
        ("a.rtf", "application/rtf"),
        ("a.ics", "text/calendar; charset=utf-8"),
        ("a.conf", "text/plain; charset=utf-8"),
        ("a.rst", "text/x-rst; charset=utf-8"),
        ("a.epub", "application/epub+zip"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.odt", "application/vnd.oasis.opendocument.text"),
        ("a.7z", "application/x-7z-compressed"),
        ("a.unheard-of", "application/octet-stream"),
        ("Makefile", "application/octet-stream"),
        ("html", "application/octet-stream"),
        ("data:text.html,x", "application/octet-stream"),
        ("data:a.txt", "text/plain; charset=utf-8"),
        ("http:a.txt", "text/plain; charset=utf-8"),
    ],
)
def test_types(name: str, kind: str):
    """By the suffix; a compressed file stays one."""
    assert content_type(name) == kind


def test_a_type_is_the_same_on_every_machine(tmp_path: Path):
    """What the machine's own table of types says, or a program has added to the interpreter's, changes nothing."""
    (tmp_path / "mime.types").write_text("text/x-odd mkv flac html\n")
    script = (
        "import mimetypes, sys\n"
        "mimetypes.knownfiles[:] = [sys.argv[1]]\n"
        "mimetypes.init()\n"
        "mimetypes.add_type('text/x-odd', '.png')\n"
        "from samples.files.media import content_type\n"
        "print(*(mimetypes.guess_type('a.flac')[0], *map(content_type, ('a.mkv', 'a.flac', 'a.html', 'a.png'))))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "mime.types")]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told == "text/x-odd video/matroska audio/flac text/html; charset=utf-8 image/png\n"


# On a connection


@pytest.fixture
def reactor(no_descriptor_left: None) -> Iterator[Reactor]:
    with Reactor() as made:
        yield made


class Client:
    """A raw client that takes answers apart."""

    def __init__(self, reactor: Reactor, listener: Listener, receive_buffer: int | None = None) -> None:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(listener.addresses[0])
        self.peer = Peer(sock, reactor)

    def ask(self, target: str = "/a.txt", method: str = "GET", fields: str = "") -> None:
        self.peer.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())

    def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """The next answer, complete."""
        data = self.peer.data
        while b"\r\n\r\n" not in data:
            self._read_more()
        head, _, _ = bytes(data).partition(b"\r\n\r\n")
        del data[: len(head) + 4]
        first, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status, length = int(first.split()[1]), int(fields.get("content-length", "0"))
        if method == "HEAD":
            length = 0
        while len(data) < length:
            self._read_more()
        content = bytes(data[:length])
        del data[:length]
        return status, fields, content

    def _read_more(self) -> None:
        before = len(self.peer.data)
        self.peer.read_until(before + 1)
        assert len(self.peer.data) > before, f"{self.peer.ending} in the middle of an answer: {self.peer.data!r}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.peer.close()


def test_many_requests_on_one_connection(root: Path, reactor: Reactor, pages: Site):
    """One after another, HEAD among them; the last one says that it is."""
    (root / "large").write_bytes(bytes(17_000))
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener) as client:
        for method, target, status, content in (
            ("GET", "/a.txt", 200, b"0123456789"),
            ("HEAD", "/a.txt", 200, b""),
            ("GET", "/empty", 200, b""),
            ("HEAD", "/sub/", 200, b""),
            ("HEAD", "/large", 200, b""),
            ("GET", "/large", 200, bytes(17_000)),
            ("GET", "/sub/page.html", 200, b"<p>page"),
        ):
            client.ask(target, method)
            answer = client.answer(method)
            assert (answer[0], answer[2]) == (status, content)
            assert "connection" not in answer[1]
        client.ask(fields="Connection: close\r\n")
        assert client.answer()[1]["connection"] == "close"
        assert client.peer.read_to_end() == "EOF"


@pytest.mark.parametrize("size", [17_000, 4_000_000])
def test_pipelined_requests_hold_one_file_at_a_time(root: Path, reactor: Reactor, pages: Site, size: int):
    """A thousand requests in one packet, and nobody who reads: their files are not all opened for it."""
    (root / "large").write_bytes(bytes(size))
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    before = len(os.listdir("/proc/self/fd"))
    with Client(reactor, listener, receive_buffer=4096) as client:
        client.peer.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)

        def full() -> bool:
            """Whether the kernel takes nothing any more, for some turns."""
            waiting = [connection.get_write_buffer_size() for connection in reactor.connections]
            for _ in range(20):
                reactor.run_once(0)
            return any(waiting) and waiting == [one.get_write_buffer_size() for one in reactor.connections]

        turn_until(reactor, full)
        # The client's socket, the server's, and the file.
        assert len(os.listdir("/proc/self/fd")) <= before + 3
        client.peer.reset()
        turn_until(reactor, lambda: not reactor.connections)


def test_pipelined_requests_are_answered_in_order(reactor: Reactor, pages: Site):
    """All of them, whatever they are, with a FIN right behind them."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener) as client:
        client.peer.send(
            b"".join(
                b"GET /a.txt HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-%d\r\n\r\n" % (n % 10, n % 10) for n in range(99)
            )
        )
        client.peer.fin()
        assert [client.answer()[2] for _ in range(99)] == [str(n % 10).encode() for n in range(99)]
        assert client.peer.read_to_end() == "EOF"


MALFORMED = {
    b"GET / HTTP/1.1\r\n\r\n": 400,  # no Host
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n": 400,
    b"GET /\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n": 400,
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": 400,  # TLS spoken to a port without it
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\n": 400,  # and then the FIN
    b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n": 413,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n": 405,
    b"BREW / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n": 501,
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n": 414,
    b"GET /" + b"a" * 40000: 414,
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20000 + b"\r\n\r\n": 431,
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40000: 431,
    b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n": 501,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 505,
    b"GET / HTTP/0.9\r\n\r\n": 505,
}


@pytest.mark.parametrize("request_bytes", MALFORMED, ids=lambda raw: f"{len(raw)}-{raw[:24]!r}")
def test_what_is_no_request_is_answered_once(reactor: Reactor, pages: Site, request_bytes: bytes):
    """With the status that says what is wrong; then the connection ends in order, whatever else was sent."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener) as client:
        client.peer.send(request_bytes)
        client.peer.fin()
        status, fields, _ = client.answer()
        assert (status, fields["connection"]) == (MALFORMED[request_bytes], "close")
        assert client.peer.read_to_end() == "EOF"
        assert not client.peer.data


@pytest.mark.parametrize("framing", ["Content-Length: 5000000", "Transfer-Encoding: chunked"])
def test_an_upload_is_answered_while_it_goes_on(reactor: Reactor, pages: Site, framing: str):
    """405 arrives whole and ends in order, although megabytes come after it that nobody wants."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener) as client:
        client.ask("/a.txt", "POST", f"{framing}\r\n")
        for _ in range(50):
            client.peer.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n" if "chunked" in framing else b"x" * 100_000)
        status, fields, _ = client.answer()
        assert (status, fields["connection"], fields["allow"]) == (405, "close", "GET, HEAD")
        assert client.peer.read_to_end() == "EOF"


@pytest.mark.parametrize(
    ("method", "target", "length", "status"),
    [
        ("PUT", "/a.txt", 5, 405),
        ("PUT", "/a.txt", 99_999_999, 405),
        ("BREW", "/a.txt", 5, 501),
        ("GET", "/none", 5, 404),
        ("GET", "/a.txt", 5, 200),
        ("HEAD", "/a.txt", 5, 200),
    ],
)
def test_nobody_is_invited_to_send_what_is_not_wanted(
    reactor: Reactor, pages: Site, method: str, target: str, length: int, status: int
):
    """The answer comes at once instead of `100 Continue` (RFC 9110, 10.1.1), and the connection ends."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener) as client:
        client.ask(target, method, f"Content-Length: {length}\r\nExpect: 100-continue\r\n")
        found, fields, _ = client.answer(method)
        assert (found, fields["connection"]) == (status, "close")
        assert client.peer.read_to_end() == "EOF"


def test_a_small_upload_is_only_refused(reactor: Reactor, pages: Site):
    """The connection goes on behind it."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener) as client:
        client.ask("/a.txt", "PUT", "Content-Length: 5\r\n")
        client.peer.send(b"hello")
        assert client.answer()[0] == 405
        client.ask()
        assert client.answer()[2] == b"0123456789"


@pytest.mark.parametrize(("asked_for", "seconds"), [(None, 60.0), (5.0, 5.0), (300.0, 300.0)])
def test_an_idle_connection_ends(pages: Site, asked_for: float | None, seconds: float):
    """In order, without a word, after a minute or what was asked for (in simulated time)."""
    system = SimulatedSystem(seed=1)
    with Reactor(system=system) as reactor:
        options = Options(deadlines=Deadlines(idle=asked_for))
        listener = serve(reactor, "127.0.0.1", 0, site=pages, options=options)
        peer = system.peer(listener.addresses[0])
        peer.send(b"GET /a.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        system.run(reactor, seconds - 1)
        assert peer.data.endswith(b"0123456789")
        assert peer.ending is None
        system.run(reactor, 2)
        assert peer.ending == "EOF"
        assert peer.data.endswith(b"0123456789")


def test_who_reads_slowly_is_not_idle(root: Path, pages: Site):
    """What waits in the kernel for longer than an idle time is still being read; then comes the next answer."""
    (root / "big").write_bytes(b"x" * 300_000)
    system = SimulatedSystem(seed=1, link=Link(receive_buffer_bytes=4096, send_buffer_bytes=400_000))
    with Reactor(system=system) as reactor:
        options = Options(deadlines=Deadlines(idle=60.0))
        slow = system.peer(serve(reactor, "127.0.0.1", 0, site=pages, options=options).addresses[0])
        slow.stop_reading()
        slow.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(14):
            system.run(reactor, 30.0)
            slow.read(20_000)
        slow.resume_reading()
        slow.send(b"GET /a.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        system.run(reactor, 10.0)
        assert slow.data.endswith(b"0123456789")
        assert slow.ending == "EOF"
        slow.close()


def test_a_request_that_never_becomes_whole_is_cut_off(pages: Site):
    """A byte each second keeps a connection for ten of them, not for ever."""
    system = SimulatedSystem(seed=1)
    with Reactor(system=system) as reactor:
        peer = system.peer(serve(reactor, "127.0.0.1", 0, site=pages).addresses[0])
        for byte in b"GET /a.txt HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 60:
            if peer.ending is not None:
                break
            peer.send(bytes([byte]))
            system.run(reactor, 1)
        assert peer.data.startswith(b"HTTP/1.1 408 ")
        assert peer.ending == "EOF"
        assert system.now < 15


def test_a_drain_ends_what_is_idle_and_answers_what_was_asked(reactor: Reactor, pages: Site):
    """Who has half a request is answered, for the last time; nobody is reset."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener) as idle, Client(reactor, listener) as asking:
        for client in (idle, asking):
            client.ask()
            client.answer()
        asking.peer.send(b"GET /a.txt HTTP/1.1\r\n")
        turn_until(reactor, lambda: all(connection.report.received > 30 for connection in reactor.connections))
        reactor.call_soon(reactor.drain, 10)
        assert idle.peer.read_to_end() == "EOF"
        asking.peer.send(b"Host: x\r\n\r\n")
        status, fields, content = asking.answer()
        assert (status, content, fields["connection"]) == (200, b"0123456789", "close")
        assert asking.peer.read_to_end() == "EOF"
        asking.peer.close()
        idle.peer.close()
        turn_until(reactor, lambda: reactor.drained is not None and reactor.drained.finished)
        assert reactor.drained is not None
        assert reactor.drained.clean


# Large files

LARGE = 12_000_000


@pytest.fixture
def large(root: Path) -> Path:
    """A file that no socket buffer holds; each of its blocks is another."""
    path = root / "large"
    path.write_bytes(b"".join(number.to_bytes(1000, "big") for number in range(LARGE // 1000)))
    os.utime(path, (NOW, NOW))
    return path


def test_a_slow_reader_gets_it_all_and_costs_no_memory(large: Path, reactor: Reactor, pages: Site):
    """What waits for them waits on the disk; the next request waits, too."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    tracemalloc.start()
    try:
        with Client(reactor, listener, receive_buffer=4096) as client:
            client.ask("/large")
            client.ask("/a.txt")
            turn_until(reactor, lambda: reactor.connections and reactor.connections[0].get_write_buffer_size() > 0)
            for _ in range(20):
                reactor.run_once(0)
            assert reactor.connections[0].get_write_buffer_size() > LARGE // 2
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
            tracemalloc.stop()
            assert client.answer()[2] == large.read_bytes()
            assert client.answer()[2] == b"0123456789"
    finally:
        tracemalloc.stop()


def test_a_client_that_goes_in_the_middle_leaves_nothing_behind(large: Path, reactor: Reactor, pages: Site):
    """The file is closed with the connection (that no descriptor is left is checked in every test)."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener, receive_buffer=4096) as client:
        client.ask("/large")
        client.peer.read_until(1_000_000)
        (connection,) = reactor.connections
        client.peer.close()
        turn_until(reactor, lambda: not reactor.connections)
        assert connection.report.unsent > 0


def test_a_file_that_shrinks_ends_in_a_reset(large: Path, reactor: Reactor, pages: Site):
    """Never in a short answer that looks whole, and never filled up with what comes next."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener, receive_buffer=4096) as client:
        client.ask("/large")
        client.ask("/a.txt")
        client.peer.read_until(100_000)
        os.truncate(large, LARGE // 2)
        assert client.peer.read_to_end() == "reset"
        assert b"0123456789" not in client.peer.data


def test_a_file_that_grows_is_sent_as_it_was(large: Path, reactor: Reactor, pages: Site):
    """As many bytes as were announced."""
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener, receive_buffer=4096) as client:
        client.ask("/large")
        client.peer.read_until(100_000)
        with large.open("ab") as more:
            more.write(b"more")
        client.ask("/a.txt")
        assert len(client.answer()[2]) == LARGE
        assert client.answer()[2] == b"0123456789"


def test_a_replaced_file_is_sent_as_it_was(large: Path, reactor: Reactor, pages: Site):
    """Whoever has begun with the old one gets the old one, all of it."""
    content = large.read_bytes()
    listener = serve(reactor, "127.0.0.1", 0, site=pages)
    with Client(reactor, listener, receive_buffer=4096) as client:
        client.ask("/large")
        client.peer.read_until(100_000)
        (large.parent / "new").write_bytes(b"new")
        (large.parent / "new").replace(large)
        assert client.answer()[2] == content
        client.ask("/large")
        assert client.answer()[2] == b"new"


# As people use it


def curl(*arguments: str | Path) -> bytes:
    """What curl printed; it must have been content."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *arguments], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_curl_goes_on_where_it_was_cut_off(run, large: Path, tmp_path: Path):
    """`curl -C -`, and ranges, and the whole."""
    url = f"http://127.0.0.1:{run('files', str(large.parent), '--port', '0').port()}/large"
    content, begun = large.read_bytes(), tmp_path / "begun"
    begun.write_bytes(content[:1234567])
    curl("-C", "-", "-o", begun, url)
    assert begun.read_bytes() == content
    assert curl(url) == content
    assert curl("-r", "5000-5999", url) == content[5000:6000]
    assert curl("-r", "-10", url) == content[-10:]


def test_curl_asks_whether_anything_is_new(run, root: Path, tmp_path: Path):
    """By time and by tag; and HEAD tells as much as GET would."""
    os.utime(root / "a.txt", (NOW, NOW))
    url = f"http://127.0.0.1:{run('files', str(root), '--port', '0').port()}/a.txt"
    status = ("-w", "%{http_code}", "-o", "/dev/null")
    assert curl(*status, "-z", DATE, url) == b"304"
    assert curl(*status, "-z", EARLIER, url) == b"200"
    tags = tmp_path / "tags"
    assert curl("--etag-save", tags, url) == b"0123456789"
    assert curl(*status, "--etag-compare", tags, url) == b"304"
    head = curl("-I", url)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 10\r\n" in head


def upload_in_vain(run, root: Path, times: int) -> None:
    server = run("files", str(root), "--port", "0")
    with (root / "upload").open("wb") as upload:
        upload.truncate(50_000_000)
    url = f"http://127.0.0.1:{server.port()}/a.txt"
    for number in range(times):
        # Without Expect, curl sends at once and does not wait for a word from us.
        told = curl("-H", "Expect:" if number % 2 else "X:", "-w", "%{http_code}", "-F", f"f=@{root / 'upload'}", url)
        assert told == b"405 Method Not Allowed: files can only be read here\n405"
    assert server.stop() == 0
    assert server.errors == ""


def test_the_answer_to_an_upload_arrives_whole(run, root: Path):
    """`curl -F` of 50 MB to a server that takes none: 405, every time."""
    upload_in_vain(run, root, 5)


@pytest.mark.slow
def test_the_answer_to_an_upload_arrives_whole_every_time_of_100(run, root: Path):
    """The same, as often as the race between answer and upload needs to show itself."""
    upload_in_vain(run, root, 100)


def test_a_browser_like_client_keeps_its_connection(run, root: Path):
    """http.client asks for everything over one connection; `--log-level info` has a line for each answer."""
    server = run("files", str(root), "--port", "0", "--log-level", "info", "--no-listing")
    connection = http.client.HTTPConnection("127.0.0.1", server.port(), timeout=10)
    with contextlib.closing(connection):
        sockets = set()
        for target, status in (("/a.txt", 200), ("/none", 404), ("/sub", 301), ("/sub/", 403), ("/a.txt", 200)):
            connection.request("GET", target)
            response = connection.getresponse()
            assert response.status == status
            assert len(response.read()) == int(response.headers["Content-Length"])
            sockets.add(connection.sock)
        assert len(sockets) == 1
    assert server.stop() == 0
    lines = re.findall(r'127\.0\.0\.1:\d+ "(.*)"', server.errors)
    assert lines == [f"GET {target}" for target in ("/a.txt", "/none", "/sub", "/sub/", "/a.txt")]


def test_a_drain_lets_a_download_end(run, large: Path):
    """SIGTERM in the middle of it: it arrives whole, and the exit status says that nothing was lost."""
    server = run("files", str(large.parent), "--port", "0")
    with server.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        begin = client.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(server.port()), "the drain did not begin")
        _, _, content = (begin + read_to_end(client)).partition(b"\r\n\r\n")
        assert content == large.read_bytes()
    assert server.ended() == 0


def refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("asked_for", ["", " --max-connections 1000"])
def test_who_comes_when_descriptors_are_few_waits_in_line(run, root: Path, asked_for: str):
    """As many are let in as can have a file each, whatever was asked for: nobody is told 503."""
    (root / "file").write_bytes(bytes(8_000_000))
    command = f"ulimit -n 40; exec {sys.executable} -W error -m samples.files {root} --port 0{asked_for}"
    server = run("files", command=["sh", "-c", command])
    request = b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(request)
        for client in clients:
            with client:
                answer = read_to_end(client)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert len(answer) > 8_000_000
    assert (server.stop(), server.errors) == (0, "")


def test_files_over_tls(run, large: Path, tmp_path: Path):
    """What the kernel cannot send by itself is encrypted on the way."""
    authority, certificate = trustme.CA(), tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = run("files", str(large.parent), "--port", "0", "--tls-cert", str(certificate))
    url = f"https://127.0.0.1:{server.port()}/"
    assert curl("--cacert", tmp_path / "ca.pem", url + "large") == large.read_bytes()
    assert curl("--cacert", tmp_path / "ca.pem", url + "a.txt") == b"0123456789"
    assert server.errors == ""


def test_several_workers_serve_one_tree(run, root: Path):
    """Each by itself; together they end in order."""
    server = run("files", str(root), "--port", "0", "--workers", "2")
    for _ in range(10):
        assert curl(f"http://127.0.0.1:{server.port()}/a.txt") == b"0123456789"
    assert server.stop() == 0
    assert server.errors == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "the following arguments are required: DIR"),
        (("{root}/none",), "{root}/none: No such file or directory"),
        (("{root}/a.txt",), "{root}/a.txt: Not a directory"),
        (("{root}/\0",), None),
        (("{root}", "{root}"), "unrecognized arguments: {root}"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(root: Path, capsys, arguments, complaint: str | None):
    """And with exit status 2, before anybody is listened to."""
    with pytest.raises(SystemExit) as left:
        main([argument.format(root=root) for argument in arguments])
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m samples.files: ")
    assert err.count("\n") == 1
    if complaint is not None:
        assert complaint.format(root=root) in err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not on this machine")
@pytest.mark.parametrize("target", ["a.txt", "large"])
def test_a_load_meets_no_error(run, large: Path, target: str):
    """wrk with 50 connections for 3 seconds, reset in the end: no socket error, no status but 200, no complaint."""
    server = run("files", str(large.parent), "--port", "0")
    command = ["wrk", "-t", "1", "-c", "50", "-d", "3", f"http://127.0.0.1:{server.port()}/{target}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"[1-9]\d* requests in ", told), told
    assert "Socket errors" not in told
    assert "Non-2xx" not in told
    assert curl(f"http://127.0.0.1:{server.port()}/a.txt") == b"0123456789"
    assert server.errors == ""
