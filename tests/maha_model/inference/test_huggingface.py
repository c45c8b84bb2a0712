"""An export in `transformers`: the same tokens, the same logits, and every way of padding and generating."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data_pipeline import Manifest, Tokenizer, UserError
from maha_model import CausalLM, ConfigError, ModelConfig
from maha_model.huggingface import (
    MAHAPreTrainedConfig,
    MAHAPreTrainedForCausalLM,
    MAHAPreTrainedModel,
    MAHAPreTrainedTokenizer,
)
from pretrain.checkpoint import find_checkpoint, load_model, verify_checkpoint
from pretrain.export import export
from tests.conftest import Run
from tests.maha_model.inference.conftest import ids_of


def test_one_folder_has_two_readers(folder: Path, model: MAHAPreTrainedForCausalLM) -> None:
    own, ids = load_model(folder), ids_of((2, 29))
    assert torch.equal(model(ids).logits, own(ids).logits)
    assert model.config.to_maha() == own.config
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not model.training
    assert model.num_parameters() == own.num_parameters()
    assert (model.config.hidden_size, model.config.max_position_embeddings) == (16, 32)
    verify_checkpoint(folder)  # nothing was written into it


def test_saving_gives_the_weights_and_configuration_of_the_export(
    tmp_path: Path, folder: Path, model: MAHAPreTrainedForCausalLM, tokenizer: MAHAPreTrainedTokenizer
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    before, after = (safetensors.torch.load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = ids_of((1, 20))
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path)("  two\n words").input_ids == tokenizer("  two\n words").input_ids
    code = [sorted(file.name for file in path.glob("*.py")) for path in (folder, tmp_path)]
    assert code == [["modeling_maha.py"]] * 2
    exported, saved = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path))
    assert {name: saved[name] for name in exported if name != "architectures"} == {
        name: value for name, value in exported.items() if name != "architectures"
    }


def test_what_transformers_has_saved_comes_back_bitwise_as_an_export(
    tmp_path: Path, folder: Path, model: MAHAPreTrainedForCausalLM, tokenizer: MAHAPreTrainedTokenizer
) -> None:
    saved, again = tmp_path / "saved", tmp_path / "again"
    model.save_pretrained(saved, max_shard_size="10KB")
    with pytest.raises(UserError, match=r"has no tokenizer; save it there too: tokenizer.save_pretrained"):
        export(saved, again)
    tokenizer.save_pretrained(saved)
    assert len(list(saved.glob("model-*.safetensors"))) > 1
    with pytest.raises(UserError, match=f"was saved by transformers; give what python -m pretrain.export {saved} "):
        find_checkpoint(saved)
    assert export(saved, again) == saved
    for name in ("model.safetensors", "config.json", "tokenizer.model", "modeling_maha.py"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    verify_checkpoint(again)
    assert "transformers has saved the model" in (again / "README.md").read_text()
    assert torch.equal(load_model(again)(ids_of((1, 20))).logits, load_model(folder)(ids_of((1, 20))).logits)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
        model.save_pretrained(saved)  # in one file now, which transformers takes before those of the save before
        export(saved, tmp_path / "later")
        logits = model(ids_of((1, 20))).logits
        model.lm_head.weight.div_(2)
    assert torch.equal(load_model(tmp_path / "later")(ids_of((1, 20))).logits, logits)


def test_a_saved_model_that_is_not_whole_or_has_more_tokens_is_refused(
    tmp_path: Path, folder: Path, model: MAHAPreTrainedForCausalLM, tokenizer: MAHAPreTrainedTokenizer
) -> None:
    saved, out = tmp_path / "saved", tmp_path / "out"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    (saved / "model.safetensors").rename(tmp_path / "weights")
    with pytest.raises(UserError, match=r"has no weights .*; merge an adapter into its model before"):
        export(saved, out)
    weights = safetensors.torch.load_file(tmp_path / "weights")
    safetensors.torch.save_file(dict(list(weights.items())[1:]), saved / "model.safetensors")
    with pytest.raises(UserError, match=r"are not of the model of its config.json"):
        export(saved, out)
    (saved / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"the weights of .* are damaged"):
        export(saved, out)
    larger = AutoModelForCausalLM.from_pretrained(folder)
    larger.resize_token_embeddings(larger.config.vocab_size + 8)
    larger.save_pretrained(saved)
    with pytest.raises(UserError, match=r"the model has .* tokens, and tokenizer.model"):
        export(saved, out)
    shutil.rmtree(saved)
    model.transformer.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    with pytest.raises(UserError, match=r"hidden states and no head; save the model of an AutoModelForCausalLM"):
        export(saved, out)
    shutil.rmtree(saved)
    saved.mkdir()
    (saved / "adapter_config.json").write_text("{}")  # as peft saves an adapter
    with pytest.raises(UserError, match=r"is an adapter without its model; merge it"):
        export(saved, out)
    assert not out.exists()


def test_a_model_saved_over_an_export_is_told_from_damage(tmp_path: Path, folder: Path) -> None:
    over = tmp_path / "over"
    shutil.copytree(folder, over)
    AutoModelForCausalLM.from_pretrained(over, dtype=torch.bfloat16).save_pretrained(over)
    with pytest.raises(UserError, match=r"or transformers has saved a model over this export: then remove checkpoint"):
        find_checkpoint(over)
    (over / "checkpoint.json").unlink()
    export(over, tmp_path / "out")
    verify_checkpoint(tmp_path / "out")


def test_a_fresh_model_starts_as_ours_does() -> None:
    sizes = {"vocab_size": 50, "context_length": 16, "d_model": 8, "num_layers": 2, "num_heads": 2, "d_ff": 8}
    torch.manual_seed(3)
    own = CausalLM(ModelConfig(**sizes))
    torch.manual_seed(3)
    other = AutoModelForCausalLM.from_config(MAHAPreTrainedConfig(**sizes))
    for (name, expected), (other_name, parameter) in zip(own.named_parameters(), other.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(expected, parameter)


def test_logits_of_a_model_with_a_base_width_are_ours_also_after_its_vocabulary_has_grown() -> None:
    sizes = {"vocab_size": 50, "context_length": 16, "d_model": 8, "num_layers": 1, "num_heads": 2, "d_ff": 8}
    own = CausalLM(ModelConfig(**sizes, base_width=2)).eval()
    other = MAHAPreTrainedForCausalLM(MAHAPreTrainedConfig(**own.config.to_dict())).eval()
    other.load_state_dict(own.state_dict())
    ids = ids_of((2, 9)) % 50
    expected = own(ids).logits
    assert torch.equal(other(ids).logits, expected)
    other.resize_token_embeddings(53)
    torch.testing.assert_close(other(ids).logits[..., :50], expected)
    other.set_output_embeddings(torch.nn.Linear(8, 53, bias=False))
    assert other.lm_head.divisor == 4


def test_a_wrong_configuration_and_a_folder_without_a_weight_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="num_heads 3 does not divide"):
        MAHAPreTrainedConfig(vocab_size=9, num_attention_heads=3, hidden_size=16)
    assert AutoConfig.from_pretrained(folder).to_maha().num_scales == 3
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["transformer.blocks.0.ffn.up.weight"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"has no transformer\.blocks\.0\.ffn\.up\.weight"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_the_loss_is_that_of_aligned_targets(folder: Path, model: MAHAPreTrainedForCausalLM) -> None:
    ids = ids_of((2, 30))
    labels = ids.clone()
    labels[0, :7] = -100
    expected = load_model(folder)(ids[:, :-1], labels[:, 1:]).loss
    torch.testing.assert_close(model(ids, labels=labels).loss, expected)
    scored = (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(model(ids, labels=labels, num_items_in_batch=2 * scored).loss, expected / 2)
    logits, *_ = model(ids, return_dict=False)
    assert torch.equal(model(ids, logits_to_keep=2).logits, model.lm_head(model.transformer(ids)[0][:, -2:]))
    assert logits.shape == (2, 30, model.config.vocab_size)


@settings(deadline=None, max_examples=40)
@given(left=st.integers(0, 9), tokens=st.integers(1, 20), right=st.integers(0, 9))
def test_padding_at_either_end_changes_nothing(
    model: MAHAPreTrainedForCausalLM, left: int, tokens: int, right: int
) -> None:
    row, width = ids_of((1, tokens)), left + tokens + right
    ids, mask = torch.zeros((2, width), dtype=torch.long), torch.zeros((2, width), dtype=torch.long)
    ids[0], mask[0] = ids_of((1, width), seed=1)[0], 1  # a row without padding beside it
    ids[1, left : left + tokens], mask[1, left : left + tokens] = row[0], 1
    logits = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[1, left : left + tokens], model(row).logits[0])
    torch.testing.assert_close(logits[0], model(ids[:1]).logits[0])


def test_padding_between_tokens_is_refused(model: MAHAPreTrainedForCausalLM) -> None:
    with pytest.raises(ValueError, match="padding between tokens"):
        model(ids_of((1, 4)), attention_mask=torch.tensor([[1, 0, 1, 1]]))


def test_without_a_mask_the_pad_token_between_others_is_text(model: MAHAPreTrainedForCausalLM) -> None:
    ids, pad = torch.tensor([[9, 9, 5, 9, 6], [7, 9, 8, 9, 6]]), 9
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": pad, "eos_token_id": None}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, attention_mask=mask, **options))


def test_an_encoder_is_no_language_model_and_takes_no_padding() -> None:
    config = MAHAPreTrainedConfig(
        vocab_size=50, d_model=16, num_layers=1, num_heads=2, d_ff=16, context_length=64, causal=False
    )
    with pytest.raises(ConfigError, match="must be causal"):
        MAHAPreTrainedForCausalLM(config)
    encoder = MAHAPreTrainedModel(config)
    assert encoder(ids_of((1, 4)) % 50, attention_mask=torch.ones(1, 4)).last_hidden_state.shape == (1, 4, 16)
    with pytest.raises(ValueError, match="attends to padding"):
        encoder(ids_of((1, 4)) % 50, attention_mask=torch.tensor([[1, 1, 1, 0]]))


def test_a_mask_of_sequence_numbers_is_refused(model: MAHAPreTrainedForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"other values than 0 and 1; .* position_ids"):
        model(ids_of((1, 4)), attention_mask=torch.tensor([[1, 1, 2, 2]]))
    floats = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    assert torch.equal(
        model(ids_of((1, 4)), attention_mask=floats).logits, model(ids_of((1, 4)), attention_mask=floats.bool()).logits
    )


@settings(deadline=None, max_examples=300)
@given(
    text=st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            st.sampled_from(
                [" ", "   ", "\n", "\r\n\n", "\t", "\u2581", "<s>", "</s>", "<unk>", "<0x41>", "\0", "don"]
            ),
        )
    ).map("".join)
)
def test_the_tokens_are_those_of_training(data: Manifest, tokenizer: MAHAPreTrainedTokenizer, text: str) -> None:
    own = Tokenizer(data.tokenizer_path)
    ids = tokenizer(text).input_ids
    assert ids == [own.bos_id, *own.encode(text)]  # a document, as the shards have it
    assert tokenizer.encode(text, add_special_tokens=False) == ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == own.decode(ids)
    assert tokenizer.decode(ids) == "<s>" + own.decode(ids)


def test_the_tokenizers_end_of_text_is_the_end_of_a_document(
    data: Manifest, tokenizer: MAHAPreTrainedTokenizer
) -> None:
    own = Tokenizer(data.tokenizer_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (own.bos_id, own.bos_id)
    assert len(tokenizer) == tokenizer.vocab_size == own.vocab_size == len(tokenizer.get_vocab())
    batch = tokenizer(["a", "a longer text"], padding=True, return_tensors="pt")
    assert batch.attention_mask[0, 0] == 0  # on the left
    assert batch.input_ids[0, 0] == tokenizer.pad_token_id == own.unk_id
    assert tokenizer.encode("<s>a", split_special_tokens=False, add_special_tokens=False)[0] == own.bos_id


def test_generation_is_the_argmax_of_our_model_one_by_one_for_every_row_of_a_batch(
    folder: Path, model: MAHAPreTrainedForCausalLM, tokenizer: MAHAPreTrainedTokenizer
) -> None:
    own, texts = load_model(folder), ["Bada", "A rather longer beginning, with more tokens"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    for choice in ({}, {"use_cache": True}, {"use_cache": False}):
        out = model.generate(**batch, max_new_tokens=12, min_new_tokens=12, do_sample=False, **choice)
        for row, text in enumerate(texts):
            ids = tokenizer(text, return_tensors="pt").input_ids
            start = ids.shape[1]
            for _ in range(12):
                logits = own(ids).logits[:, -1]
                logits[:, tokenizer.eos_token_id] = -torch.inf
                ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            assert out[row, batch.input_ids.shape[1] :].tolist() == ids[0, start:].tolist()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    beams = model.generate(**batch, max_new_tokens=4, num_beams=3, do_sample=False)
    assert beams.shape[0] == 2


def test_the_package_itself_needs_no_transformers(run_command: Run) -> None:
    script = "import sys, maha_model, pretrain.export; print([n for n in ('transformers',) if n in sys.modules])"
    assert run_command("-c", script).stdout.strip() == "[]"


def test_a_folder_and_what_is_saved_from_it_load_by_their_reference_to_the_code(
    tmp_path: Path, folder: Path, model: MAHAPreTrainedForCausalLM, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    script = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
path = {str(folder)!r}
for again in ({str(tmp_path / "a")!r}, {str(tmp_path / "b")!r}):
    model, tokenizer = (
        auto.from_pretrained(path, trust_remote_code=True) for auto in (AutoModelForCausalLM, AutoTokenizer)
    )
    print("classes of", type(model).__module__, type(tokenizer).__module__)
    model.save_pretrained(again)
    tokenizer.save_pretrained(again)
    path = again
"""
    lines = [line for line in run_command("-c", script).stdout.split("\n") if line.startswith("classes of")]
    ours = "maha_model.inference.huggingface"
    assert lines == [f"classes of {ours}.model {ours}.tokenizer"] * 2
    before, after = (safetensors.torch.load_file(path / "model.safetensors") for path in (folder, tmp_path / "b"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(path.name for path in (tmp_path / "b").glob("*.py")) == ["modeling_maha.py"]
