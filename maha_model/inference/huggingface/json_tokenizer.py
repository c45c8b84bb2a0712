"""A data set's `tokenizer.json` as a tokenizer of `transformers`."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

_FILE = "tokenizer.json"


def _tokens(file: bytes) -> dict[str, Any]:
    """What a `tokenizer.json` says of the tokens of a text, without the templates and settings around them."""
    content = json.loads(file)
    return {name: content.get(name) for name in ("model", "normalizer", "pre_tokenizer", "decoder", "added_tokens")}


class MAHAJsonTokenizer(PreTrainedTokenizerFast):
    """The JSON tokenizer that a data set was made with, so that any text has the token ids it had in training.

    A text begins with the beginning-of-document token, whatever the file's own template is, unless `add_bos_token` is
    false; that token is also what ends a generated one. Special tokens written out in a text are text, until others are
    added: from then on they are all tokens.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, add_bos_token: bool = True, **kwargs: Any) -> "MAHAJsonTokenizer":
        """As transformers has it. Its constructor is not extended: from_pretrained would no longer read the file."""
        tokenizer = super().from_pretrained(*args, **kwargs)
        tokenizer.add_bos_token = add_bos_token
        file = Path(tokenizer.name_or_path) / _FILE
        tokenizer._given = file.read_bytes() if file.is_file() else None  # noqa: SLF001
        return tokenizer

    def _add_tokens(self, new_tokens: list[Any], special_tokens: bool = False) -> int:
        size = self.backend_tokenizer.get_vocab_size()
        added: int = super()._add_tokens(new_tokens, special_tokens=special_tokens)
        if special_tokens and self.backend_tokenizer.get_vocab_size() > size:
            self.split_special_tokens = False  # the library finds all special tokens or none
        return added

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """As transformers has it, but with the file that was given, byte for byte, as long as its tokens are the same.

        transformers writes a template of its own into it, and a data set knows its tokenizer by the file's digest.
        """
        saved: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        file = Path(save_directory) / _FILE
        given = vars(self).get("_given")
        if given is not None and file.is_file() and _tokens(given) == _tokens(file.read_bytes()):
            file.write_bytes(given)
        return saved

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoTokenizer") -> None:
        """Nothing: a saved folder refers to this package (`inference.remote_code`) instead of holding a copy of it."""
