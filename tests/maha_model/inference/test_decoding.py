"""Decoding token by token against the full forward, for every attention, and the size of what it keeps."""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from maha_model import AggregationConfig, CausalLM, DecodingState, ModelConfig
from tests.maha_model.test_causality import VOCABULARY, build, models, spans

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-5}


def stream(model: CausalLM, ids_BN: Tensor, prompt: int) -> tuple[Tensor, DecodingState]:
    """Logits (B, N - max(prompt, 1) + 1, V) from the prompt's last token on, and the state after them."""
    state = DecodingState(model, ids_BN.shape[0])
    logits = [state.prefill(ids_BN[:, :prompt])] if prompt else []
    logits += [state.step(ids_B) for ids_B in ids_BN[:, prompt:].unbind(1)]
    return torch.stack(logits, 1), state


def largest_difference(model: CausalLM, ids_BN: Tensor, prompt: int) -> float:
    """Relative to the largest logit."""
    with torch.no_grad():
        full = model(ids_BN).logits[:, max(prompt - 1, 0) :]
    return ((stream(model, ids_BN, prompt)[0] - full).abs().max() / full.abs().max()).item()


def rounding(model: CausalLM, ids_BN: Tensor) -> float:
    """How far the full forward's logits are from those in float64: a random model can magnify rounding. Relative."""
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        full, wanted = model(ids_BN).logits, exact(ids_BN).logits
    return ((full - wanted).abs().max() / wanted.abs().max()).item()


@settings(deadline=None, max_examples=25)
@given(
    fields=models,
    dtype=st.sampled_from(list(DTYPES)),
    B=st.integers(1, 3),
    N=st.integers(1, 90),
    data=st.data(),
    seed=st.integers(0, 100),
)
def test_every_step_gives_the_logits_of_the_full_forward(
    fields: dict, dtype: torch.dtype, B: int, N: int, data: st.DataObject, seed: int
) -> None:
    prompt = data.draw(st.integers(0, N), label="prompt")
    model = build(seed, **fields).to(dtype)
    ids = torch.randint(VOCABULARY, (B, N), generator=torch.Generator().manual_seed(seed))
    difference = largest_difference(model, ids, prompt)
    assert difference <= max(DTYPES[dtype], 4 * rounding(model, ids))


@pytest.mark.parametrize("query", ["coarse", "fine"])
@pytest.mark.parametrize("prompt", [0, 3, 200, 401])
def test_logits_stay_equal_long_after_every_span_is_full(query: str, prompt: int) -> None:
    """Four scales of W = 8 are full after 64 tokens; the model is meant for 64 too."""
    model = build(0, span=8, num_scales=4, query=query)
    model.config.context_length = 64
    ids = torch.randint(VOCABULARY, (1, 601))
    assert largest_difference(model, ids, prompt) <= 1e-10
    assert largest_difference(model.float(), ids, prompt) <= 1e-5


@pytest.mark.parametrize("strategy", ["convex", "nash", "gate"])
@pytest.mark.parametrize("query", ["coarse", "fine"])
def test_a_bfloat16_model_decodes_its_full_forward_up_to_rounding(strategy: str, query: str) -> None:
    config = ModelConfig(
        vocab_size=64, context_length=128, d_model=64, num_layers=2, num_heads=4, d_ff=64, span=16, query=query,
        aggregation=AggregationConfig(strategy=strategy),
    )  # fmt: skip
    torch.manual_seed(0)
    model, ids = CausalLM(config).bfloat16().eval(), torch.randint(64, (2, 80))
    limit = 4 * rounding(model, ids)
    for prompt in (0, 5, 40):
        assert largest_difference(model, ids, prompt) <= limit


@settings(deadline=None, max_examples=20)
@given(fields=spans, B=st.integers(1, 2), prompt=st.integers(0, 40))
@example(
    fields={"attention": "maha", "num_scales": 5, "ratio": 2, "span": 20, "query": "coarse", "dilation": 1},
    B=1,
    prompt=0,
)
def test_the_state_has_one_size_from_the_first_token_on(fields: dict, B: int, prompt: int) -> None:
    fields = {**fields, "attention": "longformer" if fields["attention"] == "standard" else fields["attention"]}
    fields["span"] = 16 if fields["span"] == "full" else fields["span"]
    model = build(0, **fields)
    state = DecodingState(model, B)
    size = state.num_bytes()
    if prompt:
        state.prefill(torch.zeros(B, prompt, dtype=torch.int64))
        assert state.num_bytes() == size
    for _ in range(70):
        state.step(torch.zeros(B, dtype=torch.int64))
        assert state.num_bytes() == size
    # Keys and values of W tokens a scale; two windows; context and output; and the local convolution's earlier inputs.
    config, L = model.config, model.config.num_scales if model.config.attention == "maha" else 1
    tokens = L * (2 * config.span + 2 * max(3, config.ratio) + 2) + 2 * config.dilation + 1
    # For all layers, a scale: a mask of W numbers, and a counter.
    shared = L * (config.head_dim + config.span + 1)
    assert size <= 8 * (config.num_layers * B * config.d_model * tokens + shared)


@pytest.mark.parametrize("fields", [{"attention": "standard"}, {"span": "full"}])
def test_full_attention_keeps_every_token(fields: dict) -> None:
    model = build(0, **fields)
    sizes = [stream(model, torch.zeros(1, N, dtype=torch.int64), N)[1].num_bytes() for N in (64, 128, 256, 1024)]
    assert sizes == sorted(set(sizes))


def test_sequences_of_a_batch_do_not_touch_each_other() -> None:
    model = build(3, span=4)
    ids = torch.randint(VOCABULARY, (3, 50))
    together, _ = stream(model, ids, 20)
    alone, _ = stream(model, ids[1:2], 20)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-12, atol=1e-12)


def test_a_prompt_is_taken_in_once_and_holds_a_token() -> None:
    model = CausalLM(ModelConfig(vocab_size=5, d_model=8, num_heads=2, num_layers=1, d_ff=8))
    state = DecodingState(model)
    with pytest.raises(ValueError, match="at least one"):
        state.prefill(torch.zeros(1, 0, dtype=torch.int64))
    state.step(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="give later ones to step"):
        state.prefill(torch.zeros(1, 4, dtype=torch.int64))


@settings(deadline=None, max_examples=12)
@given(fields=models, prompt=st.integers(1, 30), rows=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_rows_of_a_state_are_selected_and_repeated_like_sequences_of_the_batch(
    fields: dict, prompt: int, rows: list[int]
) -> None:
    model, ids = build(0, **fields).double(), torch.randint(VOCABULARY, (3, 40))
    state, expected = DecodingState(model, 3), DecodingState(model, len(rows))
    state.prefill(ids[:, :prompt])
    expected.prefill(ids[rows, :prompt])
    copied = copy.deepcopy(state)
    state.select(torch.tensor(rows))
    for t in range(prompt, 40):
        wanted = expected.step(ids[rows, t])
        torch.testing.assert_close(state.step(ids[rows, t]), wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(copied.step(ids[:, t])[rows], wanted, rtol=1e-9, atol=1e-9)
    assert next(iter(copied.model.parameters())) is next(iter(model.parameters()))
