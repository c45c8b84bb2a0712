"""Texts that lm-eval's tasks are made of: those that a data set was prepared from, with tokenizers of both kinds."""

import json
import math
from pathlib import Path

import pytest

from data_pipeline import Manifest, UserError
from eval.lm_tasks.perplexity import bits_per_byte, documents, results, weighted_perplexity
from eval.lm_tasks.texts import read_texts


def test_texts_of_a_data_set_are_those_it_was_prepared_from(
    source_folder: Path, data: Manifest, json_data: Manifest
) -> None:
    file = source_folder / "test-00000.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    expected = [(row["short_book_title"], row["text"]) for row in rows]
    assert list(read_texts(str(data.folder), "test")) == expected
    assert list(read_texts(str(json_data.folder), "test")) == expected
    assert list(read_texts(str(file), "ignored")) == expected


def test_perplexity_is_of_whole_documents_in_their_own_words_and_bytes(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    file = tmp_path / "book.txt"
    file.write_text("  Zwölf  Wörter\n{{ no template }} [1]\n", encoding="utf-8")
    (row,) = documents(data=str(file), version=1.0)["test"]
    assert row == {"title": "book", "text": "  Zwölf  Wörter\n{{ no template }} [1]\n"}
    scores = results(row, [-12.0])
    assert scores["word_perplexity"] == (-12.0, 7)
    assert scores["bits_per_byte"] == scores["byte_perplexity"] == (-12.0, len(row["text"].encode()))


def test_perplexity_is_lm_evals_and_nan_where_that_is_undefined() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    items = [(-12.5, 7), (-300.0, 90)]
    assert weighted_perplexity(items) == pytest.approx(metrics.weighted_perplexity(items), rel=1e-12)
    assert bits_per_byte(items) == pytest.approx(metrics.bits_per_byte(items), rel=1e-12)
    for undefined in ([(-3000.0, 1)], [(-5.0, 0)], [(math.nan, 3)], []):
        assert math.isnan(weighted_perplexity(undefined))
    assert math.isnan(bits_per_byte([(-5.0, 0)]))
    assert bits_per_byte([(-3000.0, 1)]) == pytest.approx(3000 / math.log(2))


@pytest.mark.parametrize(("name", "value"), [("data", 2024), ("data", 0), ("split", 2024)])
def test_a_name_that_lm_eval_reads_as_a_number_is_named(name: str, value: int) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match=f"{name} is {value}, which is no name; give a name, or a path"):
        documents(**{"data": "book.txt", name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is no prepared data set; make one"), ("", "holds no text; there is nothing")]
)  # fmt: skip
def test_what_has_no_text_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    place = tmp_path if content is None else tmp_path / "empty.txt"
    if content is not None:
        place.write_text(content)
    with pytest.raises(UserError, match=message):
        documents(data=str(place))
