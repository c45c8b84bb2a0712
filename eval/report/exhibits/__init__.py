"""The exhibits of the report: a module for each section of the page, which makes its exhibits from a `Source`."""

from eval.report.exhibits.attention import attention_exhibits
from eval.report.exhibits.bigrams import bigram_exhibits
from eval.report.exhibits.context import context_exhibits
from eval.report.exhibits.cost import cost_exhibits
from eval.report.exhibits.documents import documents_exhibits
from eval.report.exhibits.main_table import HEADER, PUBLISHED, READING, rows, table_exhibits
from eval.report.exhibits.scales import scales_exhibits
from eval.report.exhibits.source import Source
from eval.report.exhibits.training import training_exhibits

__all__ = [
    "HEADER",
    "PUBLISHED",
    "READING",
    "Source",
    "attention_exhibits",
    "bigram_exhibits",
    "context_exhibits",
    "cost_exhibits",
    "documents_exhibits",
    "rows",
    "scales_exhibits",
    "table_exhibits",
    "training_exhibits",
]
