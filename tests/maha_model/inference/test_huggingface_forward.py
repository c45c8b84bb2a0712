"""What `transformers` and the libraries over it pass to a model and do with it."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorWithFlattening,
    Trainer,
    TrainingArguments,
)

from data_pipeline import UserError
from maha_model.huggingface import MAHAPreTrainedForCausalLM
from pretrain.checkpoint import load_model
from pretrain.export import export
from tests.maha_model.inference.conftest import ids_of

LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)


def test_auto_model_gives_the_hidden_states_of_our_transformer(folder: Path) -> None:
    ids = ids_of((2, 21))
    expected, _ = load_model(folder).transformer(ids)
    assert torch.equal(AutoModel.from_pretrained(folder)(ids).last_hidden_state, expected)


def test_hidden_states_are_the_inputs_of_the_blocks_and_the_output(model: MAHAPreTrainedForCausalLM) -> None:
    ids, mask = ids_of((2, 9)), torch.tensor([[0, 0, *[1] * 7], [1] * 9])
    inputs: list[torch.Tensor] = []
    hook = model.transformer.blocks[1].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    states = model(ids[1:], output_hidden_states=True).hidden_states
    hook.remove()
    assert len(states) == model.config.num_layers + 1
    assert torch.equal(states[0], model.transformer.embedding(ids[1:]))
    assert torch.equal(states[1], inputs[0])
    assert torch.equal(model.lm_head(states[-1]), model(ids[1:]).logits)
    padded = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for found, wanted in zip(padded, states, strict=True):
        torch.testing.assert_close(found[1:], wanted)


def test_embeddings_stand_for_tokens(model: MAHAPreTrainedForCausalLM) -> None:
    ids, mask = ids_of((2, 9)), torch.tensor([[0, 0, *[1] * 7], [1] * 9])
    embeddings = model.get_input_embeddings()(ids)
    for use_cache in (False, True):
        found = model(inputs_embeds=embeddings, attention_mask=mask, use_cache=use_cache).logits
        assert torch.equal(found, model(ids, attention_mask=mask, use_cache=use_cache).logits)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), model.generate(ids, **options)[:, 9:])


def test_arguments_that_cannot_be_honoured_are_refused_in_one_line(model: MAHAPreTrainedForCausalLM) -> None:
    ids, positions = ids_of((2, 6)), torch.arange(6)[None]
    anew = torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert torch.equal(model(ids, position_ids=positions + 3).logits, model(ids).logits)
    for message, arguments in {
        r"position_ids have shape \(1, 5\); give \(2, 6\)": {"position_ids": torch.tensor([[0, 1, 2, 3, 4]])},
        "do not count the tokens": {"position_ids": torch.tensor([[0, 2, 4, 6, 8, 10]])},
        "begin anew at one number": {"position_ids": torch.tensor([[3, 4, 5, 0, 1, 2]])},
        "and no cache": {"position_ids": anew, "use_cache": True},
        "need rows without padding": {"position_ids": anew, "attention_mask": torch.tensor([[1] * 6, [1] * 5 + [0]])},
        r"has shape \(2, 1, 6, 6\)": {"attention_mask": torch.ones(2, 1, 6, 6), "position_ids": anew},
        "no layer makes a matrix": {"output_attentions": True},
        "either input_ids or inputs_embeds": {"inputs_embeds": torch.zeros(2, 6, 16)},
    }.items():
        with pytest.raises(ValueError, match=message) as refusal:
            model(ids, **arguments)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("begin", [0, 2])
def test_sequences_of_a_packed_batch_are_as_if_alone(model: MAHAPreTrainedForCausalLM, begin: int) -> None:
    """As transformers packs them for its flash attention."""
    lengths = [9, 1, 21, 3]
    texts = [ids_of((1, length)) for length in lengths]
    collate = DataCollatorWithFlattening(position_ids_start=begin)
    batch = collate([{"input_ids": text[0].tolist()} for text in texts])
    assert batch["position_ids"].shape == (1, sum(lengths))
    packed, alone = model(**batch), [model(text, labels=text) for text in texts]
    torch.testing.assert_close(packed.logits, torch.cat([found.logits for found in alone], 1))
    scored = [length - 1 for length in lengths]
    losses = [found.loss * count for found, count in zip(alone, scored, strict=True) if count]
    torch.testing.assert_close(packed.loss, sum(losses) / sum(scored))
    assert not torch.allclose(packed.logits, model(batch["input_ids"]).logits)
    states = model(**batch, output_hidden_states=True).hidden_states
    assert torch.equal(model.lm_head(states[-1]), packed.logits)
    # several rows, of which one is whole, and a mask without padding
    ids, ones = ids_of((2, 8)), torch.ones(2, 8, dtype=torch.int64)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2], [*range(8)]])
    found = model(ids, attention_mask=ones, position_ids=positions).logits
    expected = torch.cat((model(ids[:1, :5]).logits, model(ids[:1, 5:]).logits), 1)
    torch.testing.assert_close(found, torch.cat((expected, model(ids[1:]).logits)))


def test_other_forms_of_packed_batches_are_refused(model: MAHAPreTrainedForCausalLM) -> None:
    """Never computed as one sequence."""
    texts = [{"input_ids": ids_of((1, length))[0].tolist()} for length in (5, 3)]
    for options, name in (({"return_flash_attn_kwargs": True}, "cu_seq_lens_q"), ({"return_seq_idx": True}, "seq_idx")):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            model(**DataCollatorWithFlattening(**options)(texts))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_batch_trains_as_its_sequences_do(folder: Path, checkpointing: bool) -> None:
    texts = [ids_of((1, length)) for length in (17, 6, 30)]
    gradients = []
    for packed in (True, False):
        model = AutoModelForCausalLM.from_pretrained(folder).train()
        if packed and checkpointing:
            model.gradient_checkpointing_enable()
        collate = DataCollatorWithFlattening()
        groups = [texts] if packed else [[text] for text in texts]
        for group in groups:
            batch = collate([{"input_ids": text[0].tolist()} for text in group])
            model(**batch, num_items_in_batch=50).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() >= gradients[1].keys()
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_computes_blocks_twice_and_gives_the_same_gradients(folder: Path) -> None:
    ids, gradients, calls = ids_of((2, 17)), [], []
    for checkpointing in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder).train()
        model.transformer.blocks[0].attention.register_forward_hook(lambda *_: calls.append(1))
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids, use_cache=checkpointing).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(calls) == 1 + 2
    assert gradients[1]
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_an_adapter_is_trained_and_merged_into_the_same_model(folder: Path) -> None:
    model, ids = AutoModelForCausalLM.from_pretrained(folder), ids_of((2, 40))
    with torch.no_grad():
        for name, gain in model.named_parameters():
            if ".gains." in name:  # a trained model's are no longer 1
                gain.uniform_(0.5, 1.5)
    adapted = get_peft_model(model, LORA)
    adapted(ids, labels=ids).loss.backward()
    touched = [name for name, p in adapted.named_parameters() if p.grad is not None]
    assert touched
    assert all("lora_" in name for name in touched)
    expected = adapted.eval()(ids).logits
    tokens = adapted.generate(input_ids=ids[:, :5], max_new_tokens=6, min_new_tokens=6, do_sample=False)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(
        merged.generate(ids[:, :5], max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=False), tokens
    )


@pytest.mark.parametrize("options", [{"trainable_token_indices": [5]}, {"modules_to_save": ["embedding"]}])
def test_tokens_that_an_adapter_trains_are_merged_with_the_head(
    tmp_path: Path, folder: Path, options: dict[str, list]
) -> None:
    """Head and embedding share a weight, which peft is told; trained as a whole it parts them, and says so."""
    model, ids = AutoModelForCausalLM.from_pretrained(folder), ids_of((1, 9))
    ids[0, 3] = 5
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["out"], **options))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    expected = adapted.eval()(ids).logits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(ids).logits, expected, rtol=1e-4, atol=1e-4)
    if "modules_to_save" not in options:
        assert merged.lm_head.weight is merged.get_input_embeddings().weight
        return
    assert any("no longer tied" in str(warning.message) for warning in caught)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "merged")
    with pytest.raises(UserError, match=r"has a head of its own \(tie_word_embeddings: false\)"):
        export(tmp_path / "merged", tmp_path / "anew")


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_checkpointing": True}])
def test_the_trainer_lowers_the_loss(tmp_path: Path, folder: Path, options: dict) -> None:
    ids = ids_of((1, 24))[0]
    rows = [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}] * 8
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=1, **options,
    )  # fmt: skip
    trainer = Trainer(AutoModelForCausalLM.from_pretrained(folder), arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_added_tokens_are_tokens_and_outlast_a_round_trip(tmp_path: Path, folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    size, text = len(tokenizer), "<|user|>Bada <s> bing<|bot|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|bot|>"]})
    model.resize_token_embeddings(len(tokenizer))
    ids = tokenizer(text).input_ids
    assert (ids[1], ids[-1]) == (size, size + 1)
    assert ids.count(tokenizer.bos_token_id) == 1  # written out it is still text
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Bada <s> bing"
    assert model.lm_head.weight is model.get_input_embeddings().weight
    expected = model(torch.tensor([ids])).logits
    assert expected.shape[-1] == size + 2
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == ids
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor([ids])).logits, expected)


def test_accelerate_places_the_model(tmp_path: Path, folder: Path, model: MAHAPreTrainedForCausalLM) -> None:
    ids = ids_of((1, 8))
    parts = {"transformer.embedding": "cpu", "transformer.norm": "cpu", "transformer.blocks": "disk", "lm_head": "cpu"}
    for places in ({"": "cpu"}, parts):
        placed = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=str(tmp_path))
        assert torch.equal(placed(ids).logits, model(ids).logits)
