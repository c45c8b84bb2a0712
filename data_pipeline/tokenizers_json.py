"""JSON files of the library `tokenizers` behind `Tokenizer`. The library is optional, and imported late."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError

_SPACE = "\u2581"
_BEGINS = (
    "<s>", "<bos>", "[BOS]", "<|bos|>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>",
    "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[CLS]",
)  # fmt: skip
"""Names of the token that documents begin with, the likeliest first. The end of a text is what separates them in
models without a token for its begin (GPT-2)."""


class JsonFile:
    """`tokenizer.json` of the library `tokenizers`, as folders of the Hugging Face hub have it.

    Documents begin with the token that the file's own template puts before a text, else with the first of its special
    tokens that has a name of a begin or an end. Truncation and padding that the file asks for are left out.
    """

    def __init__(self, content: bytes, path: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise UserError(
                f"{path} is of the library tokenizers, which is not installed; bash launch/setup.sh tokenizers, or pip "
                "install tokenizers, installs it"
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # (the library raises nothing more special)
            raise UserError(
                f"{path} is no tokenizer that the library tokenizers reads ({' '.join(str(error).split())}); give a "
                "tokenizer.json"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        self._verbatim = {number: token.content for number, token in added.items() if not token.special}
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos_id, self.eos_id = self._begin(path), -1
        unknown, decoder = (json.loads(self._tokenizer.to_str()).get(key) or {} for key in ("model", "decoder"))
        if unknown.get("dropout"):
            raise UserError(
                f"{path} drops merges at random (model.dropout), so no text would have its tokens again; "
                "set that to null"
            )
        found = self._tokenizer.token_to_id(unknown.get("unk_token") or "")
        self.unk_id: int = self.bos_id if found is None else found
        self._bytes_of, self._path = _spelling(decoder), path

    def _begin(self, path: Path) -> int:
        """The token that documents begin with."""
        begun = [number for number in self._tokenizer.encode("a").ids[:1] if number in self._special]
        named = (self._tokenizer.token_to_id(name) for name in _BEGINS)
        begins = [*begun, *(number for number in named if number in self._special)]
        if not begins:
            raise UserError(
                f"{path} has no special token that documents could begin with; add one, such as {_BEGINS[0]}"
            )
        return begins[0]

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each; unlike in `encode` the library keeps no places of tokens in the text, and uses threads."""
        return [each.ids for each in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """The text."""
        return self._tokenizer.decode(ids)

    def pieces(self, ids: list[int]) -> list[str]:
        """In SentencePiece's notation; bytes that are no whole characters each by its value."""
        return [self._piece(number) for number in ids]

    def _piece(self, token: int) -> str:
        if token in self._special or self._bytes_of is None:
            return self.name(token)
        raw = self.token_bytes(token)
        try:
            text = "" if raw == b"\n" else raw.decode().replace(" ", _SPACE)
        except UnicodeDecodeError:
            text = ""
        return text or "".join(f"<0x{byte:02X}>" for byte in raw)

    def name(self, token: int) -> str:
        """Its content; nothing for an id that no token has."""
        return self._tokenizer.id_to_token(token) or ""

    def token_bytes(self, token: int) -> bytes:
        """By the file's decoder."""
        if token in self._special:
            return b""
        if token in self._verbatim:
            return self._verbatim[token].encode()
        if self._bytes_of is None:
            raise UserError(
                f"the pieces of {self._path} are not parts of the text (its decoder is neither ByteLevel nor "
                "Metaspace nor a fallback to bytes), so no text is written token by token; use transformers on it"
            )
        return self._bytes_of(self.name(token))


def _spelling(decoder: dict[str, Any]) -> Callable[[str], bytes] | None:
    """From a piece to its bytes by the file's decoder; None if it is of another kind."""
    steps = decoder.get("decoders", [decoder])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        table = _byte_level()
        return lambda piece: b"".join(table.get(letter) or letter.encode() for letter in piece)
    spaced = any(step.get("type") == "Replace" and step["pattern"] == {"String": _SPACE} for step in steps)
    if kinds & {"Metaspace", "ByteFallback"} or spaced:
        falls_back = "ByteFallback" in kinds

        def spell(piece: str) -> bytes:
            if falls_back and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                return bytes([int(piece[3:5], 16)])
            return piece.replace(_SPACE, " ").encode()

        return spell
    return None


def _byte_level() -> dict[str, bytes]:
    """The letter that stands for each byte in a byte-level vocabulary: itself if it can be printed, else one from
    U+0100 on in the bytes' order (GPT-2, encoder.py)."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printed]
    letters = {byte: chr(byte) for byte in printed} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}
    return {letter: bytes([byte]) for byte, letter in letters.items()}
