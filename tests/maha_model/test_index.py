"""A layer's index: what it learns from its lesson, and that nothing else learns anything from it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from maha_model import CausalLM, ConfigError, Documents, ModelConfig
from maha_model.attention import MAHAAttention, rotate_down
from maha_model.kernels.index import Rows, choose_blocks
from maha_model.kernels.index.lessons import attention_of
from tests.maha_model.test_causality import VOCABULARY, build

INDEX: dict[str, Any] = {
    "descent": 2, "query": "fine", "positions": "token", "choice": "index", "index_dim": 8, "span": 4, "ratio": 4,
    "num_scales": 2,
}  # fmt: skip


def gradients(model: CausalLM, ids_BN: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    model(ids_BN, targets=ids_BN).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_the_lesson_is_the_only_source_of_an_indexs_gradient_and_has_no_other_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids = build(0, **INDEX), torch.randint(VOCABULARY, (2, 60))
    taught = gradients(model, ids)
    monkeypatch.setattr("maha_model.attention.maha.attach", lambda x, *_: x)
    alone = gradients(model, ids)
    for name, gradient in alone.items():
        if ".index." in name:
            assert gradient is None
            assert taught[name].any()
        else:
            assert torch.equal(gradient, taught[name])


def test_queries_have_a_bias_keys_none_and_a_new_index_does_not_prefer_what_is_near() -> None:
    """As docs/model.md has it: a bias of keys would be one number for all of a query's scores."""
    attention = build(0, **INDEX).transformer.blocks[0].attention
    assert isinstance(attention, MAHAAttention)
    parameters = dict(attention.index.named_parameters())
    assert {*parameters} == {"query.weight", "query.bias", "key.weight", "fade"}
    assert not parameters["fade"].any()


@pytest.mark.parametrize("tokens", [1, 4, 6])
def test_a_window_without_far_tokens_gives_gradients_of_zero(tokens: int) -> None:
    """Not none: ZeRO waits for all of them."""
    found = gradients(build(0, **INDEX), torch.zeros(1, tokens, dtype=torch.int64))
    assert not any(gradient.any() for name, gradient in found.items() if ".index." in name)


def test_nothing_is_taught_where_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(0, **INDEX), torch.randint(VOCABULARY, (1, 40))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".index." not in name)
    monkeypatch.setattr("maha_model.attention.maha.lesson", None)
    gradients(model, ids)
    with torch.no_grad():
        model(ids)


def test_an_index_learns_to_find_what_attention_looks_at() -> None:
    """The attention of a layer whose weights stay as they are; the most that blocks can hold of it is known."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=31, context_length=128, d_model=32, num_layers=1, num_heads=2, d_ff=8, init_std=0.3, recency=0,
        rope_base=1e9, **{**INDEX, "num_scales": 1, "descent": 4, "index_dim": 16},
    )  # fmt: skip
    model = CausalLM(config)
    attention = model.transformer.blocks[0].attention
    assert isinstance(attention, MAHAAttention)
    optimizer = torch.optim.Adam(attention.index.parameters(), lr=0.03)
    before = share_found(attention, model.transformer.embedding(torch.randint(31, (4, 128))))
    for _ in range(250):
        gradients(model, torch.randint(31, (4, 128)))
        optimizer.step()
    x_BND = model.transformer.embedding(torch.randint(31, (4, 128)))
    after, best = share_found(attention, x_BND), share_found(attention, x_BND, by_attention=True)
    assert after - before > 0.5 * (best - before) > 0.1


@torch.no_grad()
def share_found(attention: MAHAAttention, x_BND: Tensor, by_attention: bool = False) -> float:
    """Share of attention to far tokens that the chosen blocks have, averaged over queries."""
    x_BND = torch.nn.functional.rms_norm(x_BND, x_BND.shape[-1:])
    _, (query,), keys, _, indexed = attention.project(x_BND)
    q, k = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (query, keys[0]))
    q, (k,) = rotate_down(q, [k], 1, attention.config)
    position = torch.arange(128)[:, None]
    weights = attention_of(q, k, position).mean(1) * (torch.arange(128) <= position - 4)
    blocks = weights.unflatten(-1, (32, 4)).sum(-1)
    if by_attention:
        return float((blocks.topk(4).values.sum(-1) / blocks.sum(-1))[:, 40:].mean())
    chosen = choose_blocks(
        attention.index.apart(indexed.queries), attention.index.apart(indexed.keys), indexed.fade, 4, 4, 4
    )[:, 0].long()
    found = blocks.gather(-1, chosen.clamp_min(0)) * (chosen >= 0)
    return float((found.sum(-1) / blocks.sum(-1))[:, 40:].mean())


def index_gradients(model: CausalLM) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if ".index." in name}


def test_micro_batches_teach_what_one_batch_does() -> None:
    model, ids = build(0, **INDEX), torch.randint(VOCABULARY, (4, 50))
    gradients(model, ids)
    whole = {name: grad.clone() for name, grad in index_gradients(model).items()}
    model.zero_grad()
    model.scale_lessons(1 / 4)
    for some in ids.split(1):
        (model(some, targets=some).loss / 4).backward()
    for name, grad in index_gradients(model).items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-9, atol=1e-15)


def test_documents_and_padded_rows_teach_by_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the documents alone, each by its share of the tokens; all their queries as often, none of padding.

    44, 22 and 11 queries have a whole block to choose, so that no sampling of shorter rows makes a difference.
    """
    monkeypatch.setattr("maha_model.kernels.index.lessons.QUERIES", 10**6)
    model, lengths = build(0, **INDEX), [51, 29, 18, 5]
    ids = torch.randint(VOCABULARY, (1, sum(lengths)))
    wanted: dict[str, Tensor] = {}
    for document in ids.split(lengths, 1):
        gradients(model, document)
        for name, grad in index_gradients(model).items():
            wanted[name] = wanted.get(name, 0) + grad * document.shape[1] / ids.shape[1]
    model.zero_grad()
    model(ids, targets=ids, documents=Documents.of([lengths], model.config.context_unit)).loss.backward()
    packed = {name: grad.clone() for name, grad in index_gradients(model).items()}
    model.zero_grad()
    rows = torch.nn.utils.rnn.pad_sequence([row[0] for row in ids.split(lengths, 1)], batch_first=True)
    told = Rows(torch.tensor(lengths), sum(lengths))
    hidden = model.transformer.embedding(rows)
    for block in model.transformer.blocks:
        hidden, _ = block(hidden, None, told)
    hidden.sum().backward()
    for found in (packed, index_gradients(model)):
        for name, grad in found.items():
            torch.testing.assert_close(grad, wanted[name], rtol=1e-9, atol=1e-14)


def test_a_part_of_an_index_can_learn_alone() -> None:
    model, ids = build(0, **INDEX), torch.randint(VOCABULARY, (1, 40))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".index.key" in name)
    gradients(model, ids)
    found = index_gradients(model)
    assert all((grad is not None and grad.any()) == (".key" in name) for name, grad in found.items())


def test_an_index_needs_a_descent() -> None:
    with pytest.raises(ConfigError, match="choice 'index' needs descent"):
        ModelConfig(choice="index")


def test_an_index_without_width_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="index_dim is 0; it must be at least 1"):
        ModelConfig(**{**INDEX, "index_dim": 0})
