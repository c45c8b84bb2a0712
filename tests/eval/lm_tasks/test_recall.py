"""Documents of the tasks in text: an oracle finds the answer in the text before it, and all of them fit."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import Manifest, UserError
from eval.lm_tasks import recall
from tests.conftest import book
from tests.eval.conftest import make_run  # noqa: F401  # a fixture

pytest.importorskip("lm_eval")
Make = Callable[..., dict[str, Any]]
LENGTHS = [192, 400]


def needle(text: str) -> str:
    key = re.search(r"The word of (\w+) is$", text)
    assert key
    (value,) = re.findall(rf"The word of {key[1]} is (\w+)\.", text)
    return f" {value}"


def induction(text: str) -> str:
    shown, cue = text.rsplit("\n", 1) if "\n" in text else ("", text)
    while shown.count(cue) != 1:  # the passage has line breaks of its own
        shown, _, more = shown.rpartition("\n")
        cue = f"{more}\n{cue}"
        assert shown, "the passage stands in the text"
    return shown.split(cue, 1)[1]


def variables(text: str) -> str:
    name = re.search(r"Then (\w+) is$", text)
    assert name
    found = name[1]
    sources = dict(re.findall(r"Let (\w+) be (\w+)\.", text))
    while found in sources:
        found = sources[found]
    return f" {found}"


def needle_of_first(text: str) -> str:
    """Each pair is given in the first line; the key at the end has not come again since."""
    pairs, later = text.split("\n", 1)
    key = re.search(r"The word of (\w+) is$", later)
    assert key
    again = re.findall(r"The word of \w+ is \w+\.", later)
    shown = re.findall(r"The word of \w+ is \w+\.", pairs)
    assert len(shown) // 3 == len(again) > 0
    assert set(again) < set(shown)
    assert not [sentence for sentence in again if f"of {key[1]} is" in sentence]
    return needle(f"{pairs} The word of {key[1]} is")


def copying(text: str) -> str:
    words = re.findall(r"Remember the word (\w+)\.", text)
    listed = re.search(r"in their order: ([\w, ]+),$", text)
    assert listed
    done = listed[1].split(", ")
    assert done == words[: len(words) // 2] == words[: len(done)]
    return f" {words[len(done)]}"


ORACLES = {recall.needle: needle, recall.induction: induction, recall.variables: variables, recall.copying: copying,
           recall.multiquery: needle_of_first}  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(data: Manifest, make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    from pretrain.export import export

    folder = tmp_path_factory.mktemp("tokenizer") / "export"
    export(make_run("maha"), folder)
    import maha_model.huggingface  # noqa: F401  # registers the tokenizer

    return folder


@pytest.fixture
def metadata(data: Manifest, tokenizer: Path) -> dict[str, Any]:
    return {"data": str(data.folder), "lengths": LENGTHS, "tokenizer": str(tokenizer), "documents": 20, "version": 1.0}


@pytest.mark.parametrize("make", list(ORACLES), ids=lambda make: make.__name__)
def test_the_answer_is_in_the_text_and_every_document_fits(make: Make, metadata: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(metadata["tokenizer"])
    oracle = ORACLES[make]
    rows = make(**metadata, choices=3)["test"]
    assert [row["length"] for row in rows] == [length for length in LENGTHS for _ in range(20)]
    for row in rows:
        assert len(set(row["choices"])) == 3
        assert all(choice in row["text"] for choice in row["choices"])
        assert oracle(row["text"]).startswith(row["choices"][row["label"]])
        tokens = max(len(tokenizer(row["text"] + choice)["input_ids"]) for choice in row["choices"])
        assert row["length"] - 12 <= tokens <= row["length"]
    assert {row["label"] for row in rows} == {0, 1, 2}
    assert len({row["text"] for row in rows}) == len(rows)
    assert list(make(**metadata, choices=3)["test"]) == list(rows)
    assert make(**metadata, seed=1)["test"]["text"] != rows["text"]


def test_needles_are_at_every_depth(metadata: dict[str, Any]) -> None:
    rows = recall.needle(**{**metadata, "documents": 60})["test"]
    depths = []
    for row in rows:
        key = re.search(r"(The word of \w+ is)$", row["text"])
        assert key
        depths.append(row["text"].index(key[1]) / len(row["text"]))
    assert all(any(low <= depth < low + 0.25 for depth in depths) for low in (0, 0.25, 0.5, 0.75))


@pytest.mark.parametrize("make", [recall.needle, recall.copying, recall.multiquery], ids=lambda make: make.__name__)
def test_every_choice_is_given_once_and_stands_in_no_fixed_order(make: Make, metadata: dict[str, Any]) -> None:
    places = set()
    for row in make(**metadata, choices=3)["test"]:
        given = re.findall(r"(?:The word of \w+ is|Remember the word) (\w+)\.", row["text"])
        choices = [choice.strip() for choice in row["choices"]]
        assert [given.count(choice) for choice in choices] == [1, 1, 1]
        places.add(sorted(choices, key=given.index).index(choices[row["label"]]))
    assert places == {0, 1, 2}


def test_scores_are_of_the_right_choice() -> None:
    doc = {"label": 1, "length": 64}
    scores = recall.results(doc, [(-3.0, False), (-1.0, True), (-2.0, False)])
    assert scores["acc"] == scores["acc_64"] == scores["greedy"] == 1
    assert scores["prob"] == scores["prob_64"] == pytest.approx(0.6652410)
    assert recall.results({**doc, "label": 0}, [(-3.0, False), (-1.0, True), (-2.0, False)])["acc"] == 0
    assert recall.results(doc, [(-9000.0, False), (-8000.0, True)])["prob"] == 1  # no overflow


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "no text to search in; give --metadata data=PATH"),
        ({"data": "no/such.txt"}, "does not exist"),
        ({"lengths": [10]}, "has no room in 10 tokens"),
        ({"lengths": [100_000]}, "has fewer than 100000 tokens"),
        ({"lengths": "many"}, "give numbers of tokens"),
        ({"data": 2024}, "data is 2024, which is no name; give a name, or a path that begins with ./"),
        ({"data": 0}, "data is 0, which is no name"),
        ({"split": 1}, "split is 1, which is no name"),
        ({"lenghts": [64]}, "metadata has no 'lenghts'; did you mean lengths?"),
        ({"lengths": []}, "lengths is []; give numbers of tokens"),
        ({"lengths": [True]}, "lengths is [True]; give numbers of tokens"),
        ({"documents": True}, "documents is True; give a number of at least 1"),
        ({"hops": True}, "hops is True; give a number of at least 0"),
        ({"tokenizer": 2024}, "tokenizer is 2024, which is no name"),
        ({"tokenizer": "no/such/folder"}, "no/such/folder has no tokenizer that can be loaded; give --metadata"),
        ({"pretrained": "no/such/folder"}, "no/such/folder has no configuration that can be loaded; give --model_args"),
        ({"max_length": "long"}, "max_length is 'long'; give a number of tokens"),
        ({"choices": 1}, "choices is 1; give a number of at least 2"),
        ({"choices": 90, "hops": 9}, "different words of 4 to 9 small letters"),
        ({"tokenizer": None}, "tokenizer is not known"),
        ({"lengths": None}, "context is not known"),
    ],
)
def test_mistakes_are_named(metadata: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        recall.variables(**{**metadata, **changes})


def test_lengths_are_the_models_context_and_no_longer(metadata: dict[str, Any], tokenizer: Path) -> None:
    of_model = {**metadata, "pretrained": str(tokenizer)}
    with pytest.raises(UserError, match="a length of 192 is more than the model's context of 32"):
        recall.needle(**of_model)
    rows = recall.needle(**{**of_model, "max_length": 400, "lengths": None})["test"]
    assert set(rows["length"]) == {400}


def test_a_text_file_is_a_haystack(metadata: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text(book(random.Random(3).randrange(100), 600))
    rows = recall.needle(**{**metadata, "data": str(file), "lengths": 128})["test"]
    assert len(rows) == 20
