"""Training the SentencePiece tokenizer of a data set on its train split."""

import io
import re
from collections.abc import Iterable, Iterator

from data_pipeline.errors import UserError

_TRAINING_CHARACTERS = 64 * 2**20
_TRAINING_CHARACTERS_PER_DOCUMENT = 2**18


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """A BPE model with byte fallback and no normalisation, the same for the same texts; returns the model file.

    At most 64 Mi characters are read, from any document 256 Ki spread over its length, so that a library of any size
    is sampled from many books in bounded time and memory.

    Raises:
        UserError: if the texts are too small for `vocab_size`, or `vocab_size` is too small for their characters.
        Exception: whatever `texts` raises, as it is.
    """
    import sentencepiece  # late: reading a prepared data set needs no tokenizer

    model = io.BytesIO()
    broken: list[BaseException] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_kept(_training_lines(texts), broken),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.9999,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            max_sentence_length=2**20,
            unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
            num_threads=1,  # so that the model never depends on the machine
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        if broken:
            raise broken[0] from None
        limit = re.search(r"value <= (\d+)", str(error))
        if limit:
            raise UserError(
                f"--vocab-size {vocab_size} is larger than the training text allows; use at most {limit[1]}"
            ) from error
        if "smaller than required" in str(error) or "vocab_size" in str(error).lower():
            raise UserError(
                f"--vocab-size {vocab_size} is too small for the bytes and characters of the text; use at least 512"
            ) from error
        if "sentences_.empty()" in str(error):
            raise UserError("the train split holds no text; nothing to prepare") from error
        raise UserError(f"cannot train a tokenizer on this text: {error}") from error
    return model.getvalue()


def _kept(lines: Iterator[str], broken: list[BaseException]) -> Iterator[str]:
    """The lines; what ends them goes into `broken`, since SentencePiece's trainer makes a RuntimeError of it."""
    try:
        yield from lines
    except GeneratorExit:
        raise
    except BaseException as error:
        broken.append(error)
        raise


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    budget = _TRAINING_CHARACTERS
    for text in texts:
        excess = max(0, len(text) - _TRAINING_CHARACTERS_PER_DOCUMENT)
        third = _TRAINING_CHARACTERS_PER_DOCUMENT // 3
        parts = [text[start : start + third] for start in (0, len(text) // 3, len(text) - third)] if excess else [text]
        for part in parts:
            budget -= len(part)
            yield from (line for line in part.split("\n") if line)
        if budget <= 0:
            return
