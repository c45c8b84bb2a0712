"""An export of a model on data of a `tokenizer.json`, in `transformers`."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_pipeline import Manifest, Tokenizer
from maha_model import ModelConfig
from maha_model.huggingface import MAHAJsonTokenizer
from pretrain.export import export
from tests.pretrain.checkpoint.test_store import save

TEXT = "Bada bing,\n\n  ß 漢 <|endoftext|> end "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, json_data: Manifest) -> Path:
    out = tmp_path_factory.mktemp("hub")
    config = ModelConfig(
        vocab_size=json_data.vocab_size, context_length=32, d_model=16, num_layers=1, num_heads=2, d_ff=24, span=4
    )
    save(out / "run", json_data, 1, config=config)
    export(out / "run", out / "export")
    return out / "export"


def test_the_tokens_are_those_of_training(folder: Path, json_data: Manifest, tmp_path: Path) -> None:
    own, tokenizer = Tokenizer(json_data.tokenizer_path), AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, MAHAJsonTokenizer)
    ids = tokenizer(TEXT).input_ids
    assert ids == [own.bos_id, *own.encode(TEXT)]
    assert tokenizer.encode(TEXT, add_special_tokens=False) == ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == own.bos_id
    assert tokenizer.padding_side == "left"
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXT).input_ids == ids
    # the file too is that of training, by which its data set knows it, as long as it has the same tokens
    assert (tmp_path / "tokenizer.json").read_bytes() == json_data.tokenizer_path.read_bytes()
    again.add_tokens(["<more>"])
    again.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("<more>").input_ids == [own.bos_id, own.vocab_size]


def test_special_tokens_that_are_added_are_found_in_a_text(folder: Path, tmp_path: Path) -> None:
    for add in (
        lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "<|user|>"}),
        lambda tokenizer: tokenizer.add_tokens(["<|user|>"], special_tokens=True),
    ):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        size = len(tokenizer)
        assert add(tokenizer) == 1
        tokenizer.save_pretrained(tmp_path)
        for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
            ids = each("a <|user|> b").input_ids
            assert ids.count(size) == 1
            assert each.decode(ids, skip_special_tokens=True).split() == ["a", "b"]


def test_text_is_generated(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["Bada", "Bada bing bada"], padding=True, return_tensors="pt")
    assert model.generate(**batch, max_new_tokens=3, min_new_tokens=3).shape[1] == batch.input_ids.shape[1] + 3
