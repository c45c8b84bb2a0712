"""Perplexity of whole documents, counted in the words and bytes of their texts as `eval.ppl` does."""

from typing import Any

from data_pipeline import UserError
from eval.lm_tasks.texts import read_texts


def documents(data: str = "", split: str = "test", **_: Any) -> dict[str, Any]:
    """lm-eval's data set of `maha_perplexity`: a title and a text each.

    Args:
        data: a prepared data set, or a text, JSON or parquet file.
        split: of a data set.

    Raises:
        UserError: if there is no text.
    """
    from datasets import Dataset

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
