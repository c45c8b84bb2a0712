"""PG-19 on the hub, at one commit."""

import dataclasses
import errno
import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data_pipeline.errors import UnreachableError
from data_pipeline.sources.part import WHOLE, Part
from data_pipeline.sources.readers import document_from
from data_pipeline.sources.source import Document, Source

PG19 = "emozilla/pg19"  # the parquet copy; deepmind/pg19 is a loading script, which datasets >= 4 refuses
REVISION = "main"
"""The branch, tag or commit that a new data set is made from."""


class Pg19(Source):
    """PG-19, streamed through `datasets`: the commit `revision`, or else that which REVISION is at the first need.

    Raises:
        UnreachableError: from everything that needs the hub, if it cannot be reached.
    """

    name = PG19

    def __init__(self, revision: str | None = None) -> None:
        if revision is not None:
            self.revision = revision

    def at(self, revision: str) -> "Pg19":
        """PG-19 at another commit."""
        return Pg19(revision)

    @cached_property
    def revision(self) -> str:  # type: ignore[override]
        """The commit's hash."""
        import huggingface_hub

        try:
            commit = huggingface_hub.HfApi().dataset_info(PG19, revision=REVISION).sha
        except (OSError, ValueError, _transport_error()) as error:
            raise _unreachable(error) from error
        if commit is None:
            raise _unreachable(ValueError(f"no commit is given for {REVISION}"))
        return commit

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the repository's name and the commit."""
        return hashlib.sha256(f"{PG19}@{self.revision}".encode()).hexdigest()

    def fingerprint_of_format_1(self, name: str) -> str:
        """SHA-256 of the repository's name alone: format 1 had no commit."""
        return hashlib.sha256(PG19.encode()).hexdigest()

    def open(self, split: str, part: Part = WHOLE) -> Iterator[Document]:
        """The rows of a split."""
        import datasets

        revision = self.revision
        try:
            rows = datasets.load_dataset(PG19, split=split, streaming=True, revision=revision)
            for number, row in enumerate(rows):
                if part.has(number):
                    document = document_from(row, Path(PG19), f"{split} row {number}", fallback=f"{split} {number}")
                    yield dataclasses.replace(document, row=number)
        except (OSError, ValueError, _transport_error(), datasets.exceptions.DatasetsError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # a full disk under the cache is not the hub's
            raise _unreachable(error) from error


def _transport_error() -> type[Exception]:
    """What the hub's client raises of a connection: the client's library, and with it the class, has changed twice."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _unreachable(error: Exception) -> UnreachableError:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return UnreachableError(
        f"cannot read {PG19} from the hub ({reason}); check the connection, or pass the path of a local copy"
    )
