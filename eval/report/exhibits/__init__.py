"""The exhibits of the report: a module for each section of the page, which makes its exhibits from a `Source`."""

from eval.report.exhibits.attention import attention
from eval.report.exhibits.context import context
from eval.report.exhibits.cost import cost
from eval.report.exhibits.documents import documents
from eval.report.exhibits.main_table import HEADER, PUBLISHED, READING, main_table, rows
from eval.report.exhibits.scales import scales
from eval.report.exhibits.source import Source
from eval.report.exhibits.training import training

__all__ = [
    "HEADER",
    "PUBLISHED",
    "READING",
    "Source",
    "attention",
    "context",
    "cost",
    "documents",
    "main_table",
    "rows",
    "scales",
    "training",
]
