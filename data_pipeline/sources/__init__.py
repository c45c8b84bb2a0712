"""Where text comes from: the offline sample, PG-19 on the hub, local files in PG-19's schema, or Python sources."""

from data_pipeline.errors import UserError
from data_pipeline.files import user_path
from data_pipeline.sources.hub import Pg19
from data_pipeline.sources.local import LocalFiles
from data_pipeline.sources.part import WHOLE, Part
from data_pipeline.sources.python_code import PREFIX, PythonCode
from data_pipeline.sources.sample import Sample
from data_pipeline.sources.source import SPLITS, Document, Source

__all__ = ["SPLITS", "WHOLE", "Document", "Part", "Source", "find_source"]


def find_source(name: str) -> Source:
    """`sample`, `pg19`, `python:PACKAGE,...` or the path of a file or folder. Raises UserError if none is there."""
    if name == "sample":
        return Sample()
    if name == "pg19":
        return Pg19()
    if name.startswith(PREFIX):
        return PythonCode(name.removeprefix(PREFIX))
    if not name.strip():
        raise UserError("--source is empty; give sample, pg19, python:PACKAGE,... or the path of a file or folder")
    return LocalFiles(user_path(name))
