"""Tokens of SentencePiece for a reader: their kind, and their text."""

import re
from collections.abc import Sequence

_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

KINDS = (
    "begins a word, lower case", "begins a word, capital", "continues a word", "number", "punctuation",
    "line break", "other",
)  # fmt: skip


def kinds_of(pieces: Sequence[str]) -> list[int]:
    """The index into KINDS of every piece of a text; what begins a word depends on the piece before."""
    kinds, inside = [], False
    for piece in pieces:
        text = piece.replace(_SPACE, "")
        letter = text[:1]
        if _BYTE.fullmatch(piece):
            kind = 5 if piece == "<0x0A>" else 6
            letter = ""
        elif letter.isalpha():
            kind = 2 if inside and not piece.startswith(_SPACE) else int(letter.isupper())
        elif letter.isdigit():
            kind = 3
        else:
            kind = 4 if text else 6
        kinds.append(kind)
        inside = bool(letter) and piece[-1].isalpha()
    return kinds


def readable(piece: str) -> str:
    """A piece as text: spaces for their marker, a line break for its byte, other bytes by their value."""
    byte = _BYTE.fullmatch(piece)
    if byte:
        return "\n" if byte[1] == "0A" else f"⟨{byte[1]}⟩"
    return piece.replace(_SPACE, " ")


def plain(piece: str) -> str:
    """A piece for a table: spaces and line breaks made visible."""
    return re.sub(r"^ ", "␣", readable(piece)).replace("\n", "⏎")
