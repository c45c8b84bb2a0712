"""The data set's SentencePiece model as a tokenizer of `transformers`."""

import re
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer


class MAHAPreTrainedTokenizer(PreTrainedTokenizer):
    """The SentencePiece model that a data set was made with, so that any text has the token ids it had in training.

    A text begins with the beginning-of-sequence token unless `add_bos_token` is false. In training that token separates
    documents, so it is also what ends a generated one. Special tokens of the SentencePiece model written out in a text
    are text; tokens that were added to it are tokens.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"  # what `generate` needs

    def __init__(self, vocab_file: str, add_bos_token: bool = True, **kwargs: Any) -> None:
        self.vocab_file = vocab_file
        self.processor = SentencePieceProcessor(model_file=vocab_file)
        bos, unknown = (self.processor.id_to_piece(i) for i in (self.processor.bos_id(), self.processor.unk_id()))
        defaults = {
            "bos_token": bos, "eos_token": bos, "unk_token": unknown,
            "pad_token": unknown,  # which no text contains: the vocabulary falls back to bytes
            "split_special_tokens": True, "clean_up_tokenization_spaces": False,
        }  # fmt: skip
        super().__init__(add_bos_token=add_bos_token, **{**defaults, **kwargs})
        self.add_bos_token = add_bos_token

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoTokenizer") -> None:
        """Nothing: a saved folder refers to this package (`inference.remote_code`) instead of holding a copy of it."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.processor.vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Token ids by piece."""
        return {**{self.processor.id_to_piece(i): i for i in range(self.vocab_size)}, **self.added_tokens_encoder}

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Pieces of a text, tokens that were added among them."""
        if not kwargs.get("split_special_tokens", self.split_special_tokens):
            return super().tokenize(text, **kwargs)
        added = self._added_beyond_pieces()
        if not added:
            return self._tokenize(text)
        longest_first = sorted(map(re.escape, added), key=len, reverse=True)
        parts = re.split(f"({'|'.join(longest_first)})", text)
        return [token for part in parts for token in ([part] if part in added else self._tokenize(part))]

    def _added_beyond_pieces(self) -> set[str]:
        return {token for token, index in self.added_tokens_encoder.items() if index >= self.vocab_size}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return self.processor.encode(text, out_type=str)

    def _convert_token_to_id(self, token: str) -> int:
        return self.processor.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.processor.id_to_piece(index)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of pieces; special and added tokens are written out."""
        special = {*self.all_special_tokens, *self._added_beyond_pieces()}
        runs = ((written, list(run)) for written, run in groupby(tokens, special.__contains__))
        return "".join("".join(run) if written else self.processor.decode(run) for written, run in runs)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A document: the beginning-of-sequence token, then the text."""
        return [self.bos_token_id] * self.add_bos_token + token_ids_0 + (token_ids_1 or [])

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 at special tokens, 0 at text."""
        ids = (
            token_ids_0
            if already_has_special_tokens
            else self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        )
        return [int(i in self.all_special_ids) for i in ids]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy the SentencePiece model into a folder."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        out = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        if out.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, out)
        return (str(out),)
