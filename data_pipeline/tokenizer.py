"""A data set's tokenizer, identified by the hash of its file: a SentencePiece model or a JSON file of `tokenizers`."""

import hashlib
import re
from pathlib import Path
from typing import Protocol

from data_pipeline.errors import UserError
from data_pipeline.sentencepiece_model import SentencePieceModel
from data_pipeline.tokenizers_json import JsonFile

SENTENCEPIECE, JSON = "tokenizer.model", "tokenizer.json"
"""The file's name in a data set, a checkpoint and an export, by its kind."""
TOKENIZERS = (SENTENCEPIECE, JSON)


class TokenizerKind(Protocol):
    """What a kind has; see `Tokenizer`."""

    vocab_size: int
    bos_id: int
    eos_id: int
    unk_id: int

    def __init__(self, content: bytes, path: Path) -> None: ...

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`, as for the following."""

    def encode_all(self, texts: list[str]) -> list[list[int]]: ...  # noqa: D102

    def decode(self, ids: list[int]) -> str: ...  # noqa: D102

    def pieces(self, ids: list[int]) -> list[str]: ...  # noqa: D102

    def token_bytes(self, token: int) -> bytes: ...  # noqa: D102

    def name(self, token: int) -> str: ...  # noqa: D102


class Tokenizer:
    """A tokenizer out of its file. Those that `prepare` trains are lossless: `decode(encode(text)) == text` for any
    text without U+2581.

    Raises:
        UserError: if the file is missing, no tokenizer, has no token for the begin of a document, or its library is
            not installed.
    """

    def __init__(self, path: Path) -> None:
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        is_json = path.suffix == ".json" or content.startswith(b"{")
        self._kind: TokenizerKind = (JsonFile if is_json else SentencePieceModel)(content, path)
        self.file_name = JSON if is_json else SENTENCEPIECE
        """What the file is called in a data set, a checkpoint and an export."""
        self.sha256: str = hashlib.sha256(content).hexdigest()
        """Of the file."""
        self.vocab_size: int = self._kind.vocab_size
        """Token ids are below it."""
        self.bos_id: int = self._kind.bos_id
        """The token that every document begins with."""
        self.eos_id: int = self._kind.eos_id
        """The end-of-sequence token; -1 if there is none besides the beginning of the next document."""
        self.unk_id: int = self._kind.unk_id
        """A token that no text of training contains or, where there is none, `bos_id`: what batches are padded with."""

    def encode(self, text: str) -> list[int]:
        """Token ids, without a beginning-of-sequence token. Special tokens written out in the text are text."""
        return self._kind.encode(text)

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each, faster where the library has a way for many texts."""
        return self._kind.encode_all(texts)

    def decode(self, ids: list[int]) -> str:
        """The text of token ids; control tokens vanish."""
        return self._kind.decode(ids)

    def pieces(self, ids: list[int]) -> list[str]:
        """The piece of every token id in SentencePiece's notation: U+2581 for a space, `<0x0A>` for a byte."""
        return self._kind.pieces(ids)

    def token_bytes(self, token: int) -> bytes:
        """What one token adds to the UTF-8 text, perhaps a part of a character; nothing for control tokens.

        Raises:
            UserError: for a JSON file whose pieces are not parts of the text (WordPiece, say).
        """
        return self._kind.token_bytes(token)

    def name(self, token: int) -> str:
        """What the file calls a token."""
        return self._kind.name(token)


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer of a data set, a checkpoint or an export; the name of a SentencePiece model if there is none."""
    return next((path for name in TOKENIZERS if (path := folder / name).exists()), folder / SENTENCEPIECE)


def find_tokenizer(path: Path) -> Path:
    """The tokenizer's file that `path` is, or holds: a data set, an export, a checkpoint or a run, a folder of the hub.

    Of both kinds in one folder the JSON file, which `transformers` reads too.

    Raises:
        UserError: if there is none.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"--tokenizer {path} does not exist; give a tokenizer's file, or a folder that has one")
        return path
    steps = [step for step in (path / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", step.name)]
    for folder in (path, *sorted(steps, reverse=True)):
        for name in (JSON, SENTENCEPIECE):
            if (folder / name).is_file():
                return folder / name
    raise UserError(
        f"--tokenizer {path} holds no {SENTENCEPIECE} and no {JSON}; give a data set, a run with a checkpoint, an "
        f"export, or a folder into which transformers has saved a fast tokenizer"
    )
