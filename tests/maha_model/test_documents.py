"""A batch of documents set apart gives each document what it gets alone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model import ConfigError, Documents, ModelConfig
from maha_model.parallel import ContextSplit
from maha_model.transformer import Transformer
from tests.maha_model.test_causality import VOCABULARY, build, models


@st.composite
def batches(draw: st.DrawFn) -> list[list[int]]:
    """Windows of one length, documents of a token and up."""
    N = draw(st.integers(1, 60))
    borders = st.sets(st.integers(1, N - 1), max_size=12) if N > 1 else st.just(set())
    windows = draw(st.lists(borders, min_size=1, max_size=3))
    return [[end - start for start, end in itertools.pairwise([0, *sorted(inside), N])] for inside in windows]


@settings(max_examples=60)
@given(
    fields=models, lengths=batches(), seed=st.integers(0, 99), groups=st.integers(1, 4), least=st.integers(1, 20),
    policy=st.sampled_from(["none", "block", "selective"]), exactly=st.booleans(),
)  # fmt: skip
def test_logits_and_gradients_are_those_of_each_document_alone(
    fields: dict, lengths: list[list[int]], seed: int, groups: int, policy: str, least: int, exactly: bool
) -> None:
    model = build(seed, **fields)
    model.activation_checkpointing = policy
    ids = torch.randint(VOCABULARY, (len(lengths), sum(lengths[0])), generator=torch.Generator().manual_seed(seed))
    weights = torch.randn(*ids.shape, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    documents = Documents.of(lengths, least, groups, exactly)
    assert len(documents.shapes) == groups if exactly else len(documents.shapes) <= groups
    pieces = [
        (row, slice(start, start + length))
        for row, window in enumerate(lengths)
        for start, length in zip(itertools.accumulate(window, initial=0), window, strict=False)
    ]
    alone = [model(ids[row, own][None]).logits[0] for row, own in pieces]
    together = model(ids, documents=documents).logits
    for (row, own), logits in zip(pieces, alone, strict=True):
        torch.testing.assert_close(together[row, own], logits, rtol=1e-12, atol=1e-12)
    # (what an index learns beside this loss: test_index.py)
    parameters = [parameter for name, parameter in model.named_parameters() if ".index." not in name]
    expected = torch.autograd.grad(
        sum((logits * weights[row, own]).sum() for (row, own), logits in zip(pieces, alone, strict=True)),
        parameters, allow_unused=True,
    )  # fmt: skip
    found = torch.autograd.grad((together * weights).sum(), parameters, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = (torch.zeros(()) if x is None else x for x in (ours, theirs))
        scale = max(1.0, float(theirs.abs().max()))
        assert float((ours - theirs).abs().max()) <= 1e-12 * scale


@settings(max_examples=60)
@given(lengths=batches(), least=st.integers(1, 70), groups=st.integers(1, 6))
def test_every_token_has_a_place_of_its_own(lengths: list[list[int]], least: int, groups: int) -> None:
    documents = Documents.of(lengths, least, groups)
    T = len(lengths) * sum(lengths[0])
    assert len(documents.sources) == sum(R * M for R, M in documents.shapes)
    assert min(M for _, M in documents.shapes) >= least
    assert torch.equal(documents.sources[documents.places], torch.arange(T))
    assert len(documents.places.unique()) == T


def test_padding_is_bounded_for_documents_of_many_lengths() -> None:
    """A group is not made for a handful of rows."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 200, (400,), generator=generator).tolist()
    short = Documents.of([[*lengths, 65536 - sum(lengths)]])
    assert len(short.shapes) == 8
    assert len(short.sources) < 1.2 * 65536
    assert Documents.of([[256], [255, 1], [200, 56]]).shapes == ((5, 256),)
    assert Documents.of([[4096], [4000, 96]]).shapes == ((2, 4096), (1, 96))


@given(sizes=st.lists(st.integers(1, 16), min_size=1, max_size=8), groups=st.integers(1, 8))
def test_groups_are_those_of_the_fewest_rows(sizes: list[int], groups: int) -> None:
    """At the price of 512 rows a group: no other division of the sorted lengths is cheaper."""
    lengths = sorted((256 * size for size in sizes), reverse=True)
    costs = []
    for inside in itertools.product([False, True], repeat=len(lengths) - 1):
        borders = [0, *(place for place, there in enumerate(inside, start=1) if there), len(lengths)]
        if len(borders) <= groups + 1:
            rows = sum((end - first) * lengths[first] for first, end in itertools.pairwise(borders))
            costs.append(rows + 512 * (len(borders) - 1))
    shapes = Documents.of([lengths], groups=groups).shapes
    assert sum(R * M + 512 for R, M in shapes) == min(costs)


def test_every_parameter_has_a_gradient_however_short_the_documents_are() -> None:
    model = build(0, num_scales=3, ratio=4, projections="separate", values="separate", gating=True)
    ids = torch.zeros(1, 20, dtype=torch.long)
    model(ids, documents=Documents.of([[1] * 20], model.config.context_unit)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_cannot_set_documents_apart_is_one_line() -> None:
    model, ids, documents = build(0, num_scales=1), torch.zeros(1, 8, dtype=torch.long), Documents.of([[3, 5]])
    with pytest.raises(ConfigError, match="documents of 8 tokens are given with 16 token ids"):
        model(ids.repeat(2, 1), documents=documents)
    model.context_parallel = ContextSplit([4, 4], 0, "")
    with pytest.raises(ConfigError, match="cannot be set apart with context_parallel; leave one"):
        model(ids, documents=documents)
    encoder = Transformer(ModelConfig(vocab_size=3, context_length=64, d_model=8, num_heads=2, causal=False))
    with pytest.raises(ConfigError, match="causal: false"):
        encoder(ids, documents)
    model.context_parallel, model.transformer.reports_aux = None, True
    with pytest.raises(ConfigError, match="reports_aux"):
        model(ids, documents=documents)
    for lengths in ([[3, 0, 5]], [[3, 5], [7]], []):
        with pytest.raises(ConfigError, match="every document needs a token"):
            Documents.of(lengths)
