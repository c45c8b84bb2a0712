"""The texts of a prepared data set or of a file."""

from collections.abc import Iterator
from typing import NamedTuple

from data_pipeline import Manifest, Tokenizer, UserError, check_readable, read_documents, user_path
from data_pipeline.manifest import MANIFEST
from data_pipeline.sources.readers import read_file


class TitledText(NamedTuple):
    """A document."""

    title: str
    text: str


def read_texts(data: str, split: str) -> Iterator[TitledText]:
    """Every document that has text, in order: of a split of a data set, or of a file that `prepare` reads.

    The texts of a data set are those of its tokens: with a tokenizer that `prepare` has trained, the original ones.

    Raises:
        UserError: if it is neither, or cannot be read.
    """
    place = user_path(data)
    if (place / MANIFEST).is_file():
        manifest = Manifest.load(place)
        tokenizer = Tokenizer(manifest.tokenizer_path)
        for document in read_documents(manifest, split):
            yield TitledText(document.info.title, tokenizer.decode(document.tokens[1:].tolist()))
        return
    if place.is_dir():
        raise UserError(f"{data} is no prepared data set; make one (python -m data_pipeline.prepare), or give a file")
    check_readable(place)
    yield from (TitledText(found.title, found.text) for found in read_file(place) if found is not None and found.text)
