"""The documents of a text file, tokenized as `prepare` does it, without a data set."""

from collections.abc import Iterator
from pathlib import Path

from data_pipeline.documents import TokenizedDocument
from data_pipeline.errors import UserError
from data_pipeline.sources.readers import read_file
from data_pipeline.sources.selection import READABLE, select_files
from data_pipeline.tokenizing import tokenized


def check_readable(file: Path) -> None:
    """Raises UserError unless this is one file that `prepare` reads."""
    if not file.is_file():
        fault = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(f"{file} {fault}; give one file of {READABLE}")
    files, left_out = select_files(file)
    if not files:
        raise UserError(f"{left_out}: not read; give one file of {READABLE}")


def read_text(file: Path, tokenizer: Path) -> Iterator[TokenizedDocument]:
    """Every document of `file` that has text, in order: one of a `.txt`, else its rows, lines or entries.

    Args:
        file: one that passes `check_readable`.
        tokenizer: the tokenizer's file.

    Raises:
        UserError: that names the file and line or row of what cannot be read.
    """
    documents = (document for document in read_file(file) if document is not None and document.text)
    for encoded in tokenized(documents, tokenizer, workers=1):
        yield TokenizedDocument(encoded.tokens, encoded.fact.info)
