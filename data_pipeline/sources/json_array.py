"""The entries of a JSON array, one after the other, in memory for the largest of them."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

_SPACE = " \t\n\r"
_NEAR_END = 16  # characters: an error nearer to the end of what is read can be that of a cut word, number or escape


def array_entries(pieces: Iterable[str]) -> Iterator[Any]:
    """The entries of the array whose text is given in pieces, the first of which begins with its bracket.

    Raises:
        ValueError, RecursionError: where it is not JSON, as `json.loads` does.
    """
    text = _Text(pieces)
    decoder = json.JSONDecoder()
    text.at = 1
    if text.next_character() == "]":
        text.at += 1
    else:
        while True:
            yield text.decoded(decoder)
            mark = text.next_character()
            if mark not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' delimiter", text.buffer, text.at)
            text.at += 1
            if mark == "]":
                break
            text.next_character()
    if text.next_character():
        raise json.JSONDecodeError("Extra data", text.buffer, text.at)


class _Text:
    """What of the text is read and not used up: `buffer` from `at` on."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces, self.buffer, self.at = iter(pieces), "", 0
        self._more(1)

    def _more(self, characters: int) -> bool:
        """Read at least so many characters; False at the end of the text."""
        read = [self.buffer[self.at :]]
        while characters > 0 and (piece := next(self._pieces, "")):
            read.append(piece)
            characters -= len(piece)
        self.buffer, self.at = "".join(read), 0
        return len(read) > 1

    def next_character(self) -> str:
        """The next character that is no space, which `at` is then the place of; '' at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self._more(1):
                return ""

    def decoded(self, decoder: json.JSONDecoder) -> Any:
        """The value at `at`, and `at` behind it; as much is read as it needs, each time twice as much."""
        while True:
            try:
                value, self.at = decoder.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.buffer) - _NEAR_END
                if not cut or not self._more(len(self.buffer) - self.at):
                    raise
            else:
                return value
