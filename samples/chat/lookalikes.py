"""Which letters and digits look like which: a part of the skeletons of UTS 39, "Unicode Security Mechanisms".

Two names whose skeletons are equal look the same to a reader. UTS 39 builds a skeleton by replacing each character with
its prototype, from the data file confusables.txt. The table below has every character that Unicode 18.0 counts as a
letter or a digit, that NFKC leaves alone, and whose prototype is made of ASCII letters and digits alone. So a name
cannot be copied with letters of another script where the copied name is ASCII. Two names without an ASCII letter, for
example a Cyrillic one and its copy in Greek letters, are not compared: for that, the whole data file is needed.

The table is derived from Unicode data files, © 1991-2026 Unicode, Inc., and used under the Unicode License v3
(https://www.unicode.org/license.txt).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

# Each prototype, and the code points that look like it.
_LOOKALIKES: Mapping[str, str] = {
    "2": "01A7 03E8 10C7 14BF 1616 1CB7 A644 A6EF A75A",
    "3": "01B7 021C 0417 04E0 0545 0969 0AE9 1702 1C95 2C9C 2CC4 2CCC A76A A7AB 118CA 16F3B",
    "4": "13CE AB9E 118AF 16E82",
    "5": "01BC 118BB",
    "6": "03EC 0431 13EE 2CD2 2CD3 2CDC A543 ABBE 118D5",
    "7": "172A 1C84 104D2 118C6 16E8A",
    "8": "0222 0223 09EA 0A6A A589 1031A 169FE 1E8CB",
    "9": "09ED 0A67 0B68 0D6D 2CCA 2CCB A76E A76F 118AC 118CC 118D6 169C1 1E2F2",
    "A": "0391 0410 13AA 15C5 A4EE 102A0 16F40",
    "AA": "A732",
    "AE": "00C6 04D4",
    "AO": "A734",
    "AU": "A736",
    "AV": "A738 A73A",
    "AY": "A73C",
    "B": "0392 0412 13F4 15F7 2C82 A4D0 A557 A7B4 10282 102A1 10301",
    "C": "0421 13DF 2CA4 A4DA 102A2 10302 10415 1051B 118E9 118F2",
    "D": "13A0 15DE 15EA A4D3",
    "E": "0395 0415 13AC 2D39 A4F0 A5CB 10286 118A6 118AE",
    "F": "03DC 07D3 15B4 A4DD A798 10287 102A5 10525 118A2 118C2",
    "G": "050C 13C0 13F3 A4D6",
    "H": "0397 041D 13BB 157C 2C8E A4E7 102CF",
    "J": "037F 0408 13AB 148D A4D9 A7B2",
    "K": "039A 041A 13E6 16D5 2C94 A4D7 10518",
    "L": "13DE 14AA 2CD0 A4E1 1041B 10526 118A3 118B2 16F16",
    "M": "039C 03FA 041C 13B7 15F0 16D6 2C98 A4DF 102B0 10311 10C21",
    "N": "039D 2C9A A4E0 10513 11ABE",
    "O": (
        "0030 039F 041E 0555 07C0 0B20 0CE6 12D0 1CBF 2C9E 2D54 3007 A4F3 10292 102AB 1030F 10404 104C2 10516 "
        "10C17 118B5 118E0 16AE9 1E140 1E2F0"
    ),
    "OE": "0152",
    "OO": "A698 A74E",
    "Oy": "0478",
    "P": "03A1 0420 13E2 146D 2CA2 2CCE A4D1 10295",
    "Q": "051A 2D55",
    "R": "01A6 024C 13A1 13D2 1587 A4E3 104B4 16F35",
    "S": "0405 054F 10BD 10FD 13D5 13DA 1CBD A4E2 A576 10296 10420 16AD6 16F3A",
    "T": "03A4 0422 07E0 13A2 2CA6 3112 4E05 A4D4 A50B 10297 102B1 10315 118BC 16F0A 1D373",
    "T3": "A728",
    "U": "054D 1200 144C A4F4 104CE 118B8 16F42",
    "V": "0474 0667 06F7 13D9 142F 2D38 A4E6 A6DF 1051D 10C1F 118A0 16F08 1E145",
    "W": "051C 13B3 13D4 A4EA 118E6 118EF",
    "X": "03A7 0425 16B7 1CF5 2CAC 2D5D A4EB A7B3 10290 102B4 10317 10322 10527 10C13 10C82 10CFC 118EC",
    "Y": "03A5 0423 04AE 07CC 13A9 13BD 2CA8 311A 4E2B A4EC 102B2 10C20 118A4 16F43",
    "Z": "0396 10CD 13C3 2C6B 2C8C A4DC A6C9 102F5 10507 118A9 118E5 11ABC",
    "a": "0251 03B1 0430 AB64",
    "aa": "A733",
    "ae": "00E6 04D5",
    "ao": "A735",
    "au": "A737",
    "av": "A739 A73B",
    "ay": "A73D",
    "b": "0184 042C 07D5 13CF 1472 15AF 1031C",
    "bl": "042B",
    "c": "0441 1004 105A 1C83 1D04 2CA5 ABAF 1043D",
    "co": "AB43",
    "d": "0501 13E7 146F A4D2 1018B",
    "dz": "02A3",
    "e": "0435 04BD AB32",
    "f": "0192 0284 0584 1E9D A799 AB35",
    "g": "018D 0261 0581 1D83",
    "h": "04BA 04BB 0570 10B9 13C2",
    "i": "0131 0269 026A 03B9 0456 0582 13A5 2C93 A647 AB75 118C3",
    "j": "0237 03F3 0458 0575",
    "l": (
        "0031 0049 0196 01C0 0399 0406 04C0 04CF 05D5 05DF 0627 0661 06F1 07CA 16C1 16D0 2C92 2D4A 2D4F A4F2 A56F "
        "A781 A7AE A7FE A830 1028A 10309 10320 1050E 10926 10C3E 10CA5 10CFA 16F28 1D377 1E141 1E8C7 1ED01"
    ),
    "lL": "1EFA",
    "lO": "042E",
    "ll": "01C1 05F0",
    "lll": "A516",
    "ls": "02AA",
    "lz": "02AB",
    "n": "0578 057C",
    "o": (
        "03BF 03C3 03ED 043E 0585 05E1 0647 0665 06BE 06C1 06D5 06F5 07CB 0840 0966 09E6 0A66 0AE6 0B66 0BE6 0C66 "
        "0D20 0D66 0E50 0ED0 101D 1040 10FF 110B 11BC 17E0 1A45 1A80 1A90 1C82 1D0F 1D11 2C9F AB3D 1042C 104EA "
        "1092C 10D07 11124 114D0 118C8 118D7"
    ),
    "oe": "0153",
    "oo": "1147 11EE A699 A74F",
    "oy": "0479",
    "p": "00FE 01BF 03C1 03F8 0440 2CA3 2CCF",
    "q": "051B 0563 0566",
    "r": "0433 1D26 2C85 AB47 AB48 AB81 16A19",
    "rn": "006D 0560 11700 118E3",
    "s": "01BD 0455 0D1F A731 ABAA 10448 118C1",
    "tf": "A777",
    "ts": "02A6",
    "u": "028B 03C5 057D 1D1C A79F AB4E AB52 104F6 118D8",
    "ue": "1D6B",
    "uo": "AB63",
    "v": "03BD 0475 05D8 1D20 ABA9 11706 118C0",
    "w": "026F 0448 0461 051D 0561 1D21 2CBD A7FA AB83 ABA4 1170A 1170E 1170F",
    "x": "0445 1541 157D 1763 10CC2",
    "y": "0263 028F 03B3 0443 04AF 10E7 1D8C 1EFF 2CA9 AB5A 118C4 118DC",
    "z": "1D22 2C6C 2C8D 2D2D AB93",
}
_PROTOTYPES = {int(code, 16): like for like, codes in _LOOKALIKES.items() for code in codes.split()}
# i and j have a dot already: another one is not seen (UTS 39, 5.4).
_DOT_ABOVE = "\u0307"


def skeleton(text: str) -> str:
    """What `text` looks like. Only for comparing: it is never shown."""
    mapped = unicodedata.normalize("NFD", text).translate(_PROTOTYPES)
    for dotted in "ij":
        mapped = mapped.replace(dotted + _DOT_ABOVE, dotted)
    return unicodedata.normalize("NFD", mapped)
