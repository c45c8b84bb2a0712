"""A data set's `tokenizer.json` as a tokenizer of `transformers`."""

from typing import Any

from transformers import PreTrainedTokenizerFast


class MAHAJsonTokenizer(PreTrainedTokenizerFast):
    """The JSON tokenizer that a data set was made with, so that any text has the token ids it had in training.

    A text begins with the beginning-of-document token, whatever the file's own template is, unless `add_bos_token` is
    false; that token is also what ends a generated one. Special tokens written out in a text are text.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, add_bos_token: bool = True, **kwargs: Any) -> "MAHAJsonTokenizer":
        """As transformers has it. Its constructor is not extended: from_pretrained would no longer read the file."""
        tokenizer = super().from_pretrained(*args, **kwargs)
        tokenizer.add_bos_token = add_bos_token
        return tokenizer

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoTokenizer") -> None:
        """Nothing: a saved folder refers to this package (`inference.remote_code`) instead of holding a copy of it."""
