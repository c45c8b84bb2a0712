"""Perplexity of whole documents, counted in the words and bytes of their texts as `eval.ppl` does.

Its aggregations are lm-eval's, but NaN where a value is undefined or overflows, which ends lm-eval: text without spaces
has no perplexity per word.
"""

import math
from collections.abc import Sequence
from typing import Any

from data_pipeline import UserError
from data_pipeline.json_text import number
from eval.lm_tasks.setting import check_name
from eval.lm_tasks.texts import read_texts
from eval.undefined import perplexity, quotient


def documents(data: str = "", split: str = "test", **_: Any) -> dict[str, Any]:
    """lm-eval's data set of `maha_perplexity`: a title and a text each.

    Args:
        data: a prepared data set, or a text, JSON or parquet file.
        split: of a data set.

    Raises:
        UserError: if there is no text, or a name is none.
    """
    from datasets import Dataset

    check_name("data", data)
    check_name("split", split)
    if not data:
        raise UserError("no text to score; give --metadata data=PATH, a prepared data set or a text file")
    rows = [found._asdict() for found in read_texts(data, split)]
    if not rows:
        raise UserError(f"{data} holds no text; there is nothing to score")
    return {"test": Dataset.from_list(rows)}


def results(doc: dict[str, Any], found: list[float]) -> dict[str, tuple[float, int]]:
    """The log-likelihood of a document with the units that it is divided by; lm-eval takes the sums of all."""
    (loglikelihood,), text = found, doc["text"]
    words, size = len(text.split()), len(text.encode())
    return {
        "word_perplexity": (loglikelihood, words),
        "byte_perplexity": (loglikelihood, size),
        "bits_per_byte": (loglikelihood, size),
    }


def weighted_perplexity(items: Sequence[tuple[float, int]]) -> float:
    """exp of the mean negative log-likelihood per unit, over all documents; NaN where it is undefined or overflows."""
    nll, units = _sums(items)
    return number(perplexity(nll, units))


def bits_per_byte(items: Sequence[tuple[float, int]]) -> float:
    """The mean negative log-likelihood per unit in bits, over all documents; NaN where it is undefined."""
    nll, units = _sums(items)
    return number(quotient(nll / math.log(2), units))


def _sums(items: Sequence[tuple[float, int]]) -> tuple[float, int]:
    return -sum(loglikelihood for loglikelihood, _ in items), sum(units for _, units in items)
