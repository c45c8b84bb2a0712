"""Generation in `transformers` with a cache: tokens and logits of the full forward, whatever is done to rows."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from maha_model.huggingface import MAHACache, MAHAPreTrainedConfig, MAHAPreTrainedForCausalLM, MAHAPreTrainedTokenizer
from tests.maha_model.inference.conftest import ids_of
from tests.maha_model.test_causality import VOCABULARY, build, models

TEXTS = ["Bada", "A rather longer beginning, with more tokens", "Bada"]
CHOICES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "prompt in chunks": {"do_sample": False, "prefill_chunk_size": 40},
    "in chunks of pads": {"do_sample": False, "prefill_chunk_size": 3},
}


def random_model(seed: int, fields: dict[str, Any]) -> MAHAPreTrainedForCausalLM:
    own = build(seed, **fields)
    model = MAHAPreTrainedForCausalLM(MAHAPreTrainedConfig(**own.config.to_dict())).double().eval()
    model.load_state_dict(own.state_dict())
    return model


def padded(lengths: list[int], columns: int) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, columns) of rows that begin at the right of their pads."""
    mask = torch.tensor([[int(column >= columns - length) for column in range(columns)] for length in lengths])
    return torch.randint(VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(0)), mask


@settings(deadline=None, max_examples=12)
@given(
    fields=models,
    lengths=st.lists(st.integers(25, 40), min_size=1, max_size=4),
    cuts=st.lists(st.integers(16, 39), max_size=4).map(sorted),
)
def test_every_way_of_cutting_a_batch_gives_the_logits_of_the_full_forward(
    fields: dict[str, Any], lengths: list[int], cuts: list[int]
) -> None:
    model = random_model(0, fields)
    ids, mask = padded(lengths, 40)
    expected = model(ids, attention_mask=mask, output_hidden_states=True)
    cache, logits, states, before = None, [], [], 0
    for end in [*dict.fromkeys(cuts), 40]:
        out = model(
            ids[:, before:end], attention_mask=mask[:, :end], cache=cache, use_cache=True, output_hidden_states=True
        )
        cache, before = out.cache, end
        logits.append(out.logits)
        states.append(torch.stack(out.hidden_states))
    for found, wanted in (
        (torch.cat(logits, 1), expected.logits),
        (torch.cat(states, 2), torch.stack(expected.hidden_states)),
    ):
        for row, length in enumerate(lengths):
            part = (..., row, slice(40 - length, None), slice(None))
            torch.testing.assert_close(found[part], wanted[part], rtol=1e-9, atol=1e-9)
    assert cache.get_seq_length() == 40


def test_cached_logits_are_those_of_the_full_forward_in_float32(model: MAHAPreTrainedForCausalLM) -> None:
    ids, mask = ids_of((2, 60)), torch.ones(2, 60, dtype=torch.long)
    mask[1, :7] = 0
    expected = model(ids, attention_mask=mask).logits
    out = model(ids[:, :20], attention_mask=mask[:, :20], use_cache=True)
    for t in range(20, 60):
        out = model(ids[:, t : t + 1], attention_mask=mask[:, : t + 1], past_key_values=out.cache)
        torch.testing.assert_close(out.logits[:, 0], expected[:, t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_generation_with_a_cache_is_that_without(
    model: MAHAPreTrainedForCausalLM, tokenizer: MAHAPreTrainedTokenizer, choice: str
) -> None:
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    found = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        options = {name: value for name, value in CHOICES[choice].items() if use_cache or name != "prefill_chunk_size"}
        found.append(model.generate(**batch, max_new_tokens=12, min_new_tokens=12, use_cache=use_cache, **options))
    assert torch.equal(*found)


def test_generation_with_compiled_steps_is_that_without() -> None:
    model = random_model(0, {"attention": "standard"})
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    ids = torch.randint(1, VOCABULARY, (2, 9))
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    found = model.generate(ids, cache=MAHACache(compile=True), **options)
    assert graphs["unique_graphs"] == before + 1
    assert torch.equal(found, model.generate(ids, **options))


def test_every_token_goes_through_the_model_once(model: MAHAPreTrainedForCausalLM) -> None:
    lengths: list[int] = []
    hook = model.transformer.embedding.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    model.generate(ids_of((2, 9)), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    hook.remove()
    assert lengths == [9, 1, 1, 1, 1, 1]


def test_assisted_generation_is_greedy_generation(model: MAHAPreTrainedForCausalLM) -> None:
    ids, options = ids_of((1, 9)), {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    assistant = copy.deepcopy(model)
    with torch.no_grad():
        assistant.lm_head.weight += 0.3 * torch.randn_like(assistant.lm_head.weight)  # errs at times
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, assistant_model=assistant, **options), expected)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **options), expected)


def test_a_cache_is_cut_back_to_where_recording_began_and_not_further(model: MAHAPreTrainedForCausalLM) -> None:
    ids, cache = ids_of((2, 30)), MAHACache()
    model(ids[:, :10], cache=cache)
    cache.activate_past_recording()
    model(ids_of((2, 8), seed=1), cache=cache)
    cache.crop(-8)
    assert cache.get_seq_length() == 10
    torch.testing.assert_close(model(ids[:, 10:], cache=cache).logits, model(ids).logits[:, 10:])
    with pytest.raises(ValueError, match="21 tokens cannot be taken back"):
        cache.crop(-21)


def test_rows_are_reordered_repeated_and_moved_between_lengths(model: MAHAPreTrainedForCausalLM) -> None:
    ids, mask = ids_of((3, 30)), torch.ones(3, 30, dtype=torch.long)
    mask[1, :5] = 0
    rows = torch.tensor([1, 1, 0, 2, 1])
    expected = model(ids[rows], attention_mask=mask[rows]).logits
    cache = model(ids[:, :20], attention_mask=mask[:, :20], use_cache=True).cache
    repeated, before = copy.deepcopy(cache), cache.num_bytes()
    cache.reorder_cache(rows)
    assert (cache.batch_size, repeated.batch_size, repeated.num_bytes()) == (5, 3, before)
    out = model(ids[rows, 20:], attention_mask=mask[rows], cache=cache).logits
    torch.testing.assert_close(out, expected[:, 20:])
    repeated.batch_repeat_interleave(2)
    twice = torch.tensor([0, 0, 1, 1, 2, 2])
    out = model(ids[twice, 20:], attention_mask=mask[twice], cache=repeated).logits
    torch.testing.assert_close(out, model(ids, attention_mask=mask).logits[twice, 20:])


def test_generation_goes_on_from_an_earlier_cache(model: MAHAPreTrainedForCausalLM) -> None:
    options = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}
    first = model.generate(ids_of((2, 9)), return_dict_in_generate=True, **options)
    longer = torch.cat([first.sequences, ids_of((2, 4), seed=2)], dim=1)
    assert torch.equal(model.generate(longer, cache=first.cache, **options), model.generate(longer, **options))


def test_chunks_of_a_prompt_may_be_pads_alone(model: MAHAPreTrainedForCausalLM) -> None:
    ids, mask = padded([5, 9], 16)
    options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    for chunk in (1, 2, 3):
        assert torch.equal(model.generate(ids, prefill_chunk_size=chunk, **options), model.generate(ids, **options))
    first = model(ids[:, :4], attention_mask=mask[:, :4], use_cache=True, output_hidden_states=True)
    assert [x.shape for x in first.hidden_states] == [x.shape for x in model(ids[:, :4], output_hidden_states=True)[-1]]


def test_a_prompt_without_tokens_is_refused(model: MAHAPreTrainedForCausalLM) -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        model.generate(ids_of((1, 0)), max_new_tokens=2)
    with pytest.raises(ValueError, match="and leave out rows without tokens"):
        model.generate(ids_of((2, 3)), attention_mask=torch.tensor([[0, 0, 0], [1, 1, 1]]), max_new_tokens=2)


@pytest.mark.parametrize("length", [5, 9, 10])
@pytest.mark.parametrize("chunk", [None, 4])
def test_a_prompt_that_is_not_longer_than_the_cache_is_refused(
    model: MAHAPreTrainedForCausalLM, length: int, chunk: int | None
) -> None:
    ids, cache = ids_of((2, 12)), MAHACache()
    model.generate(ids[:, :10], cache=cache, max_new_tokens=1, do_sample=False)
    with pytest.raises(ValueError, match="the cache holds 10 tokens already; give a prompt of that text with more"):
        model.generate(ids[:, :length], cache=cache, max_new_tokens=2, do_sample=False, prefill_chunk_size=chunk)
    with pytest.raises(ValueError, match="the cache holds 10 tokens already"):
        model(ids[:, :2], attention_mask=torch.ones(2, length), cache=cache)
    assert cache.get_seq_length() == 10
    out = model.generate(ids, cache=cache, max_new_tokens=1, do_sample=False)  # as before
    assert torch.equal(out, model.generate(ids, use_cache=False, max_new_tokens=1, do_sample=False))


def test_what_a_cache_cannot_do_is_refused_in_one_line(model: MAHAPreTrainedForCausalLM) -> None:
    ids, mask = ids_of((2, 6)), torch.ones(2, 6, dtype=torch.long)
    right, later = mask.clone(), torch.ones(2, 7, dtype=torch.long)
    right[0, -1] = later[0, -1] = 0
    cache = model(ids, use_cache=True).cache
    for message, arguments in {
        "pad at the left": {"attention_mask": right, "use_cache": True},
        "pad at the left ": {"input_ids": ids[:, :1], "attention_mask": later, "cache": cache},
        "the input of 1; start with a new one": {"input_ids": ids[:1], "cache": cache},
        "cache is a DynamicCache; give": {"cache": DynamicCache()},
    }.items():
        with pytest.raises(ValueError, match=message.strip()) as refusal:
            model(**{"input_ids": ids, **arguments})
        assert "\n" not in str(refusal.value)


def test_weights_in_several_places_generate_without_a_cache(
    model: MAHAPreTrainedForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, options = ids_of((1, 5)), {"min_new_tokens": 4, "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(ids, **options)
    for part in (model, model.transformer):
        monkeypatch.setattr(part, "hf_device_map", {"transformer": 0, "lm_head": 1}, raising=False)
    assert torch.equal(model.generate(ids, **options), expected)
    with pytest.raises(ValueError, match="all weights on one device"):
        model(ids, use_cache=True)


DESCENT = {"descent": 2, "query": "fine", "positions": "token"}


@pytest.mark.parametrize("fields", [{"span": 4}, DESCENT, {**DESCENT, "choice": "index", "span": 4}], ids=str)
def test_a_cache_keeps_the_weights_type_under_autocast(fields: dict[str, Any]) -> None:
    model = random_model(0, fields).float()
    ids, mask = padded([20, 13], 20)
    wanted = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert found.shape == wanted.shape
    assert torch.equal(found[:, :21], wanted[:, :21])  # the head alone is in bfloat16: later ones may differ


def test_generation_ends_at_a_stop_string(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer("Bada bing", return_tensors="pt")
    whole = model.generate(**batch, max_new_tokens=30, min_new_tokens=30, do_sample=False)[0]
    new = tokenizer.decode(whole[batch.input_ids.shape[1] :])
    stop = new[len(new) // 3 :][:4]
    ended = model.generate(**batch, max_new_tokens=30, do_sample=False, stop_strings=[stop], tokenizer=tokenizer)[0]
    assert len(ended) < len(whole)
    assert stop in tokenizer.decode(ended[batch.input_ids.shape[1] :])


def test_an_index_learns_the_same_from_rows_that_are_padded_at_either_end() -> None:
    model, rows = random_model(0, {**DESCENT, "choice": "index", "span": 4, "num_scales": 2}), [20, 13]
    tokens = [torch.randint(VOCABULARY, (length,)) for length in rows]
    found = []
    columns = 31
    for side in ("left", "right"):
        ids, mask = torch.zeros(2, columns, dtype=torch.int64), torch.zeros(2, columns, dtype=torch.int64)
        for row, own in enumerate(tokens):
            place = slice(columns - len(own), None) if side == "left" else slice(len(own))
            ids[row, place], mask[row, place] = own, 1
        model.zero_grad()
        model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
        found.append([p.grad for name, p in model.named_parameters() if ".index." in name])
    assert all(grad.any() for grad in found[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-15)
