"""Names of members, rooms and nodes: which there are, and when two of them are one. Pure.

*One normal form.* `folded` is NFKC case folding (Unicode, 3.13), repeated until nothing changes: BEN, Ben and ben are
one. The normal form of a name is a name itself, and its own normal form. So a room is always found by the name that is
shown. The length is measured in the normal form as well, in which a sharp s counts as two letters.

*Nothing invisible.* A character with the property Default_Ignorable_Code_Point shows nothing, so it is refused, also
where it counts as a letter (the Hangul fillers).

*Marks.* Many scripts write their vowels as marks (Hindi, Thai, Tamil). A mark stands behind a letter of its own script,
or is a combining mark for all scripts. Not more than four stand together, and none twice in a row (UTS 39, 5.4).

*Look-alikes.* `likenesses` has what a name looks like; names that share one are not told apart by a reader.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

from samples.chat.lookalikes import skeleton

# Names are shown in front of every line, so a long one is a nuisance to all. Sixteen letters always fit: case folding
# makes at most two of one.
NAME_LENGTH = 32
_MOST_MARKS = 4
# DerivedCoreProperties.txt: the first and the last of each range of Default_Ignorable_Code_Point.
_IGNORABLE = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)


class Refused(Exception):
    """What was asked for cannot be had; the message says why, for the member to read."""


def checked_name(wanted: str, what: str) -> str:
    """A name as it is shown, with its upper and lower case; Refused with the rule when it cannot be one."""
    name = unicodedata.normalize("NFKC", wanted)
    if not (is_name(name) and is_name(folded(name))):
        raise Refused(f"a {what} is 1 to {NAME_LENGTH} letters, digits, - or _")
    return name


def is_name(text: str) -> bool:
    """Whether it is short enough, and made of what names are made of."""
    if not 1 <= len(text) <= NAME_LENGTH:
        return False
    letter, marks = "", ""
    for character in text:
        if is_ignorable(character):
            return False
        if unicodedata.category(character) in ("Mn", "Mc"):
            if not _carries(letter, marks, character):
                return False
            marks += character
        elif character.isalnum() or character in "-_":
            letter, marks = character, ""
        else:
            return False
    return True


def is_ignorable(character: str) -> bool:
    """Whether it has the property Default_Ignorable_Code_Point."""
    code = ord(character)
    at = bisect_right(_IGNORABLE, code, key=lambda between: between[0]) - 1
    return at >= 0 and code <= _IGNORABLE[at][1]


def _carries(letter: str, marks: str, mark: str) -> bool:
    """Whether one mark more may stand behind a letter and its marks."""
    if not letter.isalpha() or len(marks) >= _MOST_MARKS or marks.endswith(mark):
        return False
    return _script(mark) in ("COMBINING", _script(letter))


def _script(character: str) -> str:
    """The first word of the character's name, which is that of its script; of marks for all scripts, COMBINING."""
    return unicodedata.name(character, "").partition(" ")[0]


def folded(name: str) -> str:
    """The normal form, by which names are compared."""
    while True:
        again = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        if again == name:
            return name
        name = again


def likenesses(name: str) -> frozenset[str]:
    """What it looks like, as it is shown and in its normal form. Names with the same normal form share one."""
    return frozenset(folded(skeleton(form)) for form in (name, folded(name)))
