"""A mixture's file: what it reads, what its fingerprint is over, and mistakes in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline import Manifest, Mixture, SampleOrder, UserError, load_data, mixture_of


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(**values: Any) -> Path:
        path = tmp_path / "mix.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write


def placed(value: Any, names: dict[str, str]) -> Any:
    """Plain values with the names of data sets, keys and values alike, replaced by their folders."""
    if isinstance(value, dict):
        return {names.get(key, key): placed(item, names) for key, item in value.items()}
    return [placed(item, names) for item in value] if isinstance(value, list) else names.get(value, value)


def mixture(path: Path) -> Mixture:
    found = load_data(path)
    assert isinstance(found, Mixture)
    return found


def test_a_file_is_read(written: Any, data: Manifest, other_data: Manifest) -> None:
    first, second = str(data.folder), str(other_data.folder)
    path = written(
        sources={first: 3, second: 1}, validation=second,
        later=[{"after": 100, "sources": {second: 1}}, {"after": 250, "sources": {second: 1, first: 0.5}}],
    )  # fmt: skip
    found = mixture(path)
    assert found.sources == (data, other_data)
    assert found.validation == other_data
    assert [(stage.after, dict(stage.slots)) for stage in found.stages] == [
        (0, {0: 7500, 1: 2500}), (100, {1: 10_000}), (250, {1: 6667, 0: 3333})
    ]  # fmt: skip
    assert (found.tokenizer_sha256, found.vocab_size) == (data.tokenizer_sha256, data.vocab_size)
    found.verify(["train", "validation"])
    assert load_data(data.folder) == data
    assert mixture_of(data).validation == data


def test_a_source_that_is_missing_is_named_with_the_mixture(written: Any, data: Manifest, tmp_path: Path) -> None:
    for values in ({"sources": {"none": 1}}, {"sources": {str(data.folder): 1}, "validation": "none"}):
        with pytest.raises(UserError, match=r"mix\.yaml: none is not a prepared data set"):
            load_data(written(**values))


def test_the_fingerprint_is_over_the_stages_that_have_begun(written: Any, data: Manifest, other_data: Manifest) -> None:
    """So a later stage may still be changed, and a run on one data set may go on with a mixture."""
    first, second = str(data.folder), str(other_data.folder)
    alone = {"sources": {first: 1}, "later": [{"after": 100, "sources": {first: 1, second: 1}}]}
    found = mixture(written(**alone))
    assert found.fingerprint_at(0) == found.fingerprint_at(100) == data.fingerprint == data.fingerprint_at(5)
    begun = found.fingerprint_at(101)
    assert begun != data.fingerprint
    alone["later"].append({"after": 200, "sources": {second: 1}})
    longer = mixture(written(**alone))
    assert longer.fingerprint_at(200) == begun != longer.fingerprint_at(201)
    alone["later"][0]["sources"][second] = 2
    assert mixture(written(**alone)).fingerprint_at(150) != begun
    mixed = mixture(written(sources={first: 7, second: 3})).fingerprint_at(0)
    assert mixture(written(sources={first: 0.7, second: 0.3})).fingerprint_at(99) == mixed
    assert mixture(written(sources={first: 3, second: 7})).fingerprint_at(0) != mixed


def test_epochs_and_a_seed_are_a_sources_own_in_all_stages(written: Any, data: Manifest, other_data: Manifest) -> None:
    first, second = str(data.folder), str(other_data.folder)
    sources = {first: {"weight": 3}, second: {"weight": 1, "epochs": 2, "seed": 7}}
    values = {"sources": sources, "later": [{"after": 100, "sources": {second: 1}}]}
    found = mixture(written(**values))
    assert [dict(stage.slots) for stage in found.stages] == [{0: 7500, 1: 2500}, {1: 10_000}]
    order = found.order([1000, 40], seed=1)
    assert order.end == 100 + 80 - sum(order[n][0] for n in range(100))
    assert [order[n][1] for n in range(150) if order[n][0]][:40] == [SampleOrder(40, 7)[n] for n in range(40)]
    assert found.described()["stages"][0]["sources"][1] == {
        "folder": second, "fingerprint": other_data.fingerprint, "share": 0.25, "epochs": 2, "seed": 7
    }  # fmt: skip
    plain = mixture(written(sources={first: 3, second: 1})).fingerprint_at(9)
    assert mixture(written(sources={first: {"weight": 3}, second: {"weight": 1}})).fingerprint_at(9) == plain
    for option in ({"epochs": 2}, {"epochs": 3}, {"seed": 7}):
        assert mixture(written(sources={first: 3, second: {"weight": 1, **option}})).fingerprint_at(9) != plain
    assert mixture(written(sources={first: {"weight": 1, "seed": 5}})).fingerprint_at(9) != data.fingerprint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": {}}, "give data sets with their weights"),
        ({"source": {"A": 1}}, "unknown key 'source'; give sources, validation, later"),
        ({"sources": {"A": 0}}, "the weight of .* is 0; give a positive number"),
        ({"sources": {"A": {"epochs": 2}}}, "the weight of .* is None; give a positive number"),
        ({"sources": {"A": {"weight": 1, "epochs": 0}}}, "epochs of .* is 0; give a whole number from 1 to 1000000000"),
        ({"sources": {"A": {"weight": 1, "seed": 1.5}}}, "seed of .* is 1.5; give a whole number from 0 to 1000000000"),
        ({"sources": {"A": {"weight": 1, "epochs": 10**23}}}, "epochs of .* is 10+; give a whole number from 1"),
        ({"sources": {"A": 1}, "later": [{"after": True, "sources": {"A": 1}}]}, "after is True; give the number"),
        ({"sources": {"A": 1}, "later": [{"after": 10**23, "sources": {"A": 1}}]}, "after is 10+; give the number"),
        ({"sources": {"A": {"weight": 1, "epoch": 1}}}, "unknown key 'epoch'; give weight, epochs, seed"),
        (
            {"sources": {"A": 1}, "later": [{"after": 9, "sources": {"A": {"weight": 1, "epochs": 2}}}]},
            "has epochs or a seed in a later stage; give both where it is first named",
        ),
        ({"sources": {"A": 1, "B": 1e-9}}, "is less than 1/10000 of all"),
        ({"sources": {"A": 1, "A again": 1}}, "give it once"),
        ({"sources": {"none": 1}}, "none is not a prepared data set"),
        (
            {"sources": {"A": 1}, "later": [{"after": 0, "sources": {"A": 1}}]},
            "after is 0; give the number of training",
        ),
        ({"sources": {"A": 1}, "later": [{"from": 9}]}, "unknown key 'from'; give after, sources"),
        ({"sources": {"A": 1}, "later": {"after": 3}}, "give a list of stages"),
        ({"sources": {"A": 1, "J": 1}}, "has another tokenizer than .*; prepare it with that: .* --tokenizer"),
        ({"sources": {"A": 1}, "validation": "J"}, "has another tokenizer than"),
    ],
)
def test_mistakes_are_one_line(
    values: dict[str, Any], message: str, written: Any, data: Manifest, other_data: Manifest, json_data: Manifest
) -> None:
    folders = {"A": data.folder, "A again": f"{data.folder}/", "B": other_data.folder, "J": json_data.folder}
    path = written(**placed(values, {name: str(folder) for name, folder in folders.items()}))
    with pytest.raises(UserError, match=message) as raised:
        load_data(path)
    assert "\n" not in str(raised.value)


def test_a_source_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text("sources:\n  data/books: 1\n  data/code: 1\n  data/books: 9\n")
    with pytest.raises(UserError, match=r"line 4, column 3: data/books stands there twice") as raised:
        load_data(tmp_path / "mix.yaml")
    assert "\n" not in str(raised.value)


def test_the_most_epochs_do_not_overflow(written: Any, data: Manifest, other_data: Manifest) -> None:
    most = {str(data.folder): {"weight": 1, "epochs": 10**9}, str(other_data.folder): 1}
    assert mixture(written(sources=most)).order([100, 200], seed=0)[0][0] in (0, 1)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mix.yaml cannot be read: No such file"):
        load_data(tmp_path / "mix.yaml")
    with pytest.raises(UserError, match=r"mix.yaml is no folder of a prepared data set; a mixture is for training"):
        Manifest.load(tmp_path / "mix.yaml")


def test_a_file_that_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text("sources: {a: [\n")
    with pytest.raises(UserError, match="is not YAML") as raised:
        load_data(tmp_path / "mix.yaml")
    assert "\n" not in str(raised.value)
