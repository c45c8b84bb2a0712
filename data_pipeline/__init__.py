"""Text to tokenizer, shards and batches: sources, Megatron `.bin/.idx` shards with a manifest, windows, sample order.

Nothing here depends on a model. Commands: `python -m data_pipeline.prepare`, `merge` and `verify`.
"""

from data_pipeline.arguments import CommandParser, at_least, number_in_environment
from data_pipeline.document_table import DocumentInfo
from data_pipeline.documents import TokenizedDocument, read_documents
from data_pipeline.errors import UserError, user_errors
from data_pipeline.files import check_folder, user_path
from data_pipeline.manifest import Manifest
from data_pipeline.mixed_order import EndOfMixtureError, MixedOrder
from data_pipeline.mixture import Data, Mixture, mixture_of
from data_pipeline.mixture_file import load_data
from data_pipeline.packed_windows import PackedWindows, Packing, Windows, open_windows
from data_pipeline.raw_text import check_readable, read_text
from data_pipeline.sample_order import SampleOrder
from data_pipeline.tokenizer import Tokenizer, tokenizer_file
from data_pipeline.windows import WindowDataset

__all__ = [
    "CommandParser",
    "Data",
    "DocumentInfo",
    "EndOfMixtureError",
    "Manifest",
    "MixedOrder",
    "Mixture",
    "PackedWindows",
    "Packing",
    "SampleOrder",
    "TokenizedDocument",
    "Tokenizer",
    "UserError",
    "WindowDataset",
    "Windows",
    "at_least",
    "check_folder",
    "check_readable",
    "load_data",
    "mixture_of",
    "number_in_environment",
    "open_windows",
    "read_documents",
    "read_text",
    "tokenizer_file",
    "user_errors",
    "user_path",
]
