"""Names: one normal form, nothing invisible, marks behind their letters, and no look-alikes."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samples.chat.lookalikes import skeleton
from samples.chat.names import NAME_LENGTH, Refused, checked_name, folded, is_ignorable, is_name, likenesses
from samples.chat.rooms import Lobby

LETTERS = st.text(st.characters(categories=["L", "M", "N"], include_characters="-_"), min_size=1, max_size=NAME_LENGTH)


@given(LETTERS)
@example("grundstücksgröße")
@example("İstanbul")
@example("ŉ\u0345\u0301")
@example("\ufb03" * 12)
@example("J\u030c")
def test_the_normal_form_of_a_name_is_a_name_and_its_own_normal_form(wanted):
    """What is shown can be typed and is the same again, and so is its normal form."""
    try:
        name = checked_name(wanted, "name")
    except Refused:
        return
    assert checked_name(name, "name") == name
    normal = folded(name)
    assert checked_name(normal, "name") == folded(normal) == normal
    assert 1 <= len(normal) <= NAME_LENGTH
    assert likenesses(normal) <= likenesses(name)


def test_each_character_has_one_normal_form():
    """Folding any character again changes nothing, whether it can be in a name or not."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character.isalnum():
            assert folded(folded(character)) == folded(character)
            if is_name(character):
                assert len(folded(character)) <= 2 or unicodedata.normalize("NFKC", character) != character


@pytest.mark.parametrize("name", ["ß" * 16, "\u0130" * 16, "\u1fb7" * 16])
def test_sixteen_letters_always_fit(name):
    """Also where case folding makes two of each."""
    assert len(folded(checked_name(name, "name"))) == 32


@pytest.mark.parametrize(
    "name",
    [
        *("\u3164", "\u115f", "\u1160", "\uffa0", "ann\u3164", "an\u1160n", "ann\ufe0f", "ann\U000e0100", "a\u034fnn"),
        *("a\u00adnn", "a\u200dnn", "a\u200cnn", "a\u2060nn", "a\u061cnn", "ក\u17b4", "ᠠ\u180b", "\u2800", "a\ufff0"),
    ],
)
def test_a_character_that_shows_nothing_is_refused(name):
    """Hangul fillers, variation selectors, joiners, soft hyphens, and whatever Unicode calls ignorable by default."""
    with pytest.raises(Refused, match="letters, digits"):
        checked_name(name, "name")


def test_every_format_character_of_the_bidirectional_algorithm_is_ignorable():
    """The table agrees with what the standard library knows; its edges are where Unicode has them."""
    for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        assert is_ignorable(chr(code))
    for code in (0xAC, 0xAE, 0x115E, 0x1161, 0x180A, 0x1810, 0xFFEF, 0xFFF9, 0xDFFFF, 0xE1000, 0x41):
        assert not is_ignorable(chr(code))


@pytest.mark.parametrize(
    "name", ["हिन्दी", "राहुल", "ตุ๊กตา", "தமிழ்", "José", "Jose\u0301", "בְּרֵאשִׁית", "مُحَمَّد", "ខ្មែរ", "がぎ"]
)
def test_marks_stand_where_letters_carry_them(name):
    """Names of letters with vowel signs and other marks are names."""
    assert checked_name(name, "name") == unicodedata.normalize("NFKC", name)


@pytest.mark.parametrize(
    "name",
    [
        *("\u0301a", "\u093fक", "-\u0301a", "1\u0301", "_\u0301"),
        *("a\u093f", "क\u0e38", "q" + "\u0323\u0331\u0330\u0325\u0324", "q\u0323\u0323", "a\u20dd", "q\u20e3"),
    ],
    ids=ascii,
)
def test_a_mark_elsewhere_is_refused(name):
    """First, behind no letter, behind a letter of another script, too many of them, twice the same, or enclosing."""
    with pytest.raises(Refused):
        checked_name(name, "name")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *(("ann", "\u0430nn"), ("Ann", "\u0410nn"), ("ANN", "\u0391\u039d\u039d"), ("paypal", "\u0440\u0430ypal")),
        *(("lris", "Iris"), ("bob0", "bobO"), ("bob1", "bobl"), ("modern", "rnodern"), ("ANN", "\ua4ee\ua4e0\ua4e0")),
        *(("istanbul", "i\u0307stanbul"), ("scope", "\u0455\u0441\u043e\u0440\u0435"), ("sos", "s\u0585s")),
    ],
    ids=ascii,
)
def test_a_name_that_looks_like_another_shares_a_likeness_with_it(name, other):
    """Letters of other scripts, digits for letters, and pairs of letters for one."""
    assert not likenesses(name).isdisjoint(likenesses(other))


@pytest.mark.parametrize(
    ("name", "other"), [("ann", "anna"), ("jose", "josé"), ("ann", "ahn"), ("muller", "müller"), ("guest1", "guest11")]
)
def test_names_that_look_different_share_nothing(name, other):
    """An accent is seen."""
    assert likenesses(name).isdisjoint(likenesses(other))


def test_a_skeleton_is_its_own_skeleton():
    """No prototype looks like something else again."""
    for code in range(0x20000):
        looks = skeleton(chr(code))
        assert skeleton(looks) == looks


# In the rooms


class Person:
    def __init__(self, lobby):
        self.seen = []
        self.lobby = lobby
        self.member = lobby.enter(self.seen.append)

    def says(self, line):
        del self.seen[:]
        self.lobby.hear(self.member, line)
        return self.seen[-1]


@pytest.mark.parametrize(
    "room", ["grundstücksgröße", "İstanbul", "Straßenbahnhalle", "हिन्दी", "\uff34\uff25\uff21", "J\u030c"]
)
def test_a_room_is_found_by_the_name_that_is_shown(room):
    """By /list, and by the note that somebody joined it."""
    lobby = Lobby()
    ann, ben = Person(lobby), Person(lobby)
    shown = ann.says(f"/join {room}").rpartition(" ")[2]
    ben.says("/list")
    assert f"{shown} (1)" in ben.seen[0]
    assert ben.says(f"/join {shown}") == f"* guest2 joined {shown}"
    assert lobby.rooms == [shown]


def test_who_looks_like_somebody_else_is_refused_and_told_whom():
    """Whatever room the other is in, and until they have another name or have gone."""
    lobby = Lobby()
    ann, ben = Person(lobby), Person(lobby)
    ann.says("/nick ann")
    assert ben.says("/nick \u0430nn") == "* the nickname \u0430nn looks like ann, which is taken"
    assert ben.says("/nick ANN") == "* the nickname ANN is taken"
    ann.says("/nick Ann")
    assert ben.says("/nick ann") == "* the nickname ann is taken"
    ann.says("/nick zoe")
    assert ben.says("/nick \u0430nn") == "* guest2 is now \u0430nn"
    lobby.leave(ben.member)
    assert ann.says("/nick ann") == "* zoe is now ann"


def test_a_guest_is_given_no_name_that_looks_like_another():
    """A newcomer's number is one that nobody imitates."""
    lobby = Lobby()
    Person(lobby).says("/nick guestl")
    assert Person(lobby).member.name == "guest2"
