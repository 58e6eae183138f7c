"""What users wrote, in a form that can be shown: no part of it steers the terminal, hides, or cannot be encoded."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation

# Controls but tab and line feed, separators of lines, marks that turn the direction of writing, halves of characters.
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Unicode's Default_Ignorable_Code_Point where that is no format character (Cf), and the blank of Braille.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
ALIKE = str.maketrans({"\u2212": "-", "\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})


def visible(text: str) -> str:
    r"""The text, with an escape such as `\x1b` for each character that a terminal would obey or cannot show."""
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_one_line(text: str) -> str:
    r"""`visible`, with `\n` for a line break."""
    return visible(text).replace("\n", "\\n")


def look(text: str) -> str:
    """What a reader takes a name for: without case, width, invisible characters, and other ways to write a number."""
    shown = "".join(
        "-" if unicodedata.category(letter) == "Pd" else letter
        for letter in INVISIBLE.sub("", text).translate(ALIKE)
        if unicodedata.category(letter) not in ("Cf", "Cc") or letter.isspace()
    )
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", shown).casefold())
    folded = " ".join(folded.split())
    if NUMBER.fullmatch(folded):
        try:
            return str(Decimal(folded).normalize() + 0)  # + 0, as -0 is 0
        except InvalidOperation:  # an exponent beyond all bounds
            return folded
    return folded


def spelled(text: str) -> str:
    """A name in quotes, with the numbers of its characters where two may look the same."""
    return repr(text) if text.isascii() else f"{text!r} ({text!a})"
