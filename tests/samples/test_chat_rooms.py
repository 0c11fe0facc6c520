"""The rooms, without a connection in sight."""

from __future__ import annotations

import pytest

from samples.chat.names import NAME_LENGTH
from samples.chat.rooms import HELP, Lobby


@pytest.fixture
def lobby():
    return Lobby()


class Person:
    """A member, and what they were shown since last asked."""

    def __init__(self, lobby: Lobby, name: str | None = None) -> None:
        self.lobby = lobby
        self._seen: list[str] = []
        self.member = lobby.enter(self._seen.append)
        if name is not None:
            self.says(f"/nick {name}")
        self.seen()

    def says(self, line: str) -> bool:
        return self.lobby.hear(self.member, line)

    def seen(self) -> list[str]:
        seen, self._seen[:] = list(self._seen), []
        return seen


def test_a_line_is_shown_to_everybody_in_the_room(lobby):
    """The speaker too sees it, as everybody sees it."""
    ann, ben = Person(lobby, "ann"), Person(lobby, "ben")
    ann.seen()
    assert ben.says("hello")
    assert ann.seen() == ben.seen() == ["<ben> hello"]


def test_newcomers_have_names_that_nobody_has(lobby):
    """guest1 ... , passing by what somebody took already."""
    Person(lobby, "GUEST2")
    assert Person(lobby).member.name == "guest3"


@pytest.mark.parametrize(
    ("name", "room", "told", "came"),
    [
        ("ann", "Tea", [], ("ann", "tea")),
        ("", "tea", [], ("guest2", "tea")),
        ("ann", "", [], ("ann", "lobby")),
        ("BEN", "tea", ["* the nickname BEN is taken"], ("guest2", "tea")),
        ("a b", "", ["* a nickname is 1 to 32 letters, digits, - or _"], ("guest2", "lobby")),
        ("ann", "?", ["* a room name is 1 to 32 letters, digits, - or _"], ("ann", "lobby")),
    ],
)
def test_who_comes_back_may_say_as_whom_and_where_to(lobby, name, room, told, came):
    """One line for the others; what cannot be had is told, and hinders nobody."""
    ben = Person(lobby, "ben")
    ben.says(f"/join {came[1]}")
    ben.seen()
    seen: list[str] = []
    member = lobby.enter(seen.append, name, room)
    assert (member.name, member.room) == came
    assert seen[1:] == [*told, f"* {came[0]} joined {came[1]}"]
    assert ben.seen() == [f"* {came[0]} joined {came[1]}"]


def test_the_only_machine_has_nothing_to_wait_for(lobby):
    """/sync is answered at once."""
    ann = Person(lobby, "ann")
    ann.says("/sync")
    assert ann.seen() == ["* there are no other machines; all that you said was shown"]


def test_coming_and_going_are_told(lobby):
    """Join, leave with and without a word, and each once."""
    ann = Person(lobby, "ann")
    ben = Person(lobby, "ben")
    assert ann.seen() == ["* guest2 joined lobby", "* guest2 is now ben"]
    assert not ben.says("/quit good night")
    lobby.leave(ben.member)
    assert ann.seen() == ["* ben left: good night"]
    lobby.leave(Person(lobby, "cat").member, "was dropped: too slow")
    assert ann.seen()[-1] == "* cat was dropped: too slow"
    assert ben.seen() == []


@pytest.mark.parametrize("taken", ["ann", "ANN", "\uff41\uff4e\uff4e"])
def test_a_taken_nickname_is_refused(lobby, taken):
    """Whatever the case or the width of its letters; the asker alone is told."""
    ann, ben = Person(lobby, "ann"), Person(lobby, "ben")
    ann.seen()
    ben.says(f"/nick {taken}")
    assert ben.seen()[0].endswith("is taken")
    assert ben.member.name == "ben"
    assert ann.seen() == []


def test_a_nickname_can_change_its_case_and_is_free_afterwards(lobby):
    """One's own name is not taken, and an old name can be had by others."""
    ann, ben = Person(lobby, "ann"), Person(lobby, "ben")
    ann.says("/nick Ann")
    assert ann.member.name == "Ann"
    ann.says("/nick zoe")
    ben.says("/nick ann")
    assert ben.member.name == "ann"


@pytest.mark.parametrize("name", ["", "a b", "<ann>", "*", "x" * (NAME_LENGTH + 1), "a​b​c!", "a.b"])
@pytest.mark.parametrize("command", ["/nick", "/join"])
def test_names_are_short_and_plain(lobby, command, name):
    """Anything else is refused with the rule."""
    ann = Person(lobby, "ann")
    ann.says(f"{command} {name}")
    (answer,) = ann.seen()
    assert f"1 to {NAME_LENGTH} letters" in answer
    assert (ann.member.name, ann.member.room) == ("ann", "lobby")


def test_rooms_are_apart(lobby):
    """Who goes to another room is seen leaving and coming, and heard only there."""
    ann, ben, cat = Person(lobby, "ann"), Person(lobby, "ben"), Person(lobby, "cat")
    cat.says("/join tea")
    ann.seen(), ben.seen(), cat.seen()
    ben.says("/join Tea")
    ben.says("milk?")
    assert ann.seen() == ["* ben went to tea"]
    assert cat.seen() == ben.seen() == ["* ben joined tea", "<ben> milk?"]
    ben.says("/join tea")
    assert ben.seen() == ["* you are in tea already"]


def test_a_room_lasts_while_somebody_is_in_it(lobby):
    """Empty rooms take no memory."""
    ann = Person(lobby, "ann")
    for number in range(100):
        ann.says(f"/join room{number}")
    assert lobby.rooms == ["room99"]
    ann.says("/quit")
    assert lobby.rooms == []


def test_list_tells_rooms_and_members_and_stays_short(lobby):
    """However many there are."""
    people = [Person(lobby) for _ in range(60)]
    people[0].says("/join tea")
    people[1].seen()
    people[1].says("/list")
    rooms, members = people[1].seen()
    assert rooms == "* rooms: lobby (59), tea (1)"
    assert members.startswith("* in lobby: guest2, guest3, ")
    assert members.endswith("guest51 and 9 more")


def test_help_and_unknown_commands(lobby):
    """/help lists every command; another is refused, and not said aloud."""
    ann, ben = Person(lobby, "ann"), Person(lobby, "ben")
    ann.seen()
    ben.says("/help")
    assert ben.seen() == [f"* {line}" for line in HELP]
    ben.says("/password hunter2")
    assert ben.seen() == ["* there is no command /password; /help tells which there are"]
    assert ann.seen() == []


def test_a_line_may_begin_with_a_slash(lobby):
    """// says it; empty lines say nothing; indentation is kept."""
    ann = Person(lobby, "ann")
    ann.says("//usr")
    ann.says("  ")
    ann.says("  indented  ")
    assert ann.seen() == ["<ann> /usr", "<ann>   indented"]


def test_control_characters_are_taken_out_of_everything(lobby):
    """Of what is said, of names, and of a last word."""
    ann, ben = Person(lobby, "ann"), Person(lobby, "ben")
    ann.seen()
    ben.says("a\x1b]0;title\x07\u202e\tb")
    ben.says("/nick b\x1be\u200bn2")
    ben.says("/quit \x1b[2Jbye")
    assert ann.seen() == ["<ben> a]0;title b", "* ben is now ben2", "* ben2 left: [2Jbye"]


def test_nobody_can_speak_for_the_server(lobby):
    """What a member says always stands behind their name."""
    ann = Person(lobby, "ann")
    ann.says("* the server is shutting down")
    assert ann.seen() == ["<ann> * the server is shutting down"]
