"""The use of scales: its sums are those of the weights."""

import numpy as np
import pytest
import torch

from data_pipeline import Manifest, Tokenizer, read_documents
from eval.report.scale_use import scale_use
from eval.scoring.positions import choose_targets
from eval.scoring.unigram import token_counts
from maha_model import AggregationConfig, CausalLM, ModelConfig, scale_weights


@pytest.mark.parametrize("domain", ["simplex", "budget"])
def test_every_grouping_of_tokens_has_the_same_totals(data: Manifest, domain: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=data.vocab_size, context_length=64, d_model=16, num_layers=2, num_heads=2, d_ff=16, span=8,
        num_scales=3, init_std=0.3, aggregation=AggregationConfig(domain=domain),
    )  # fmt: skip
    model, tokenizer = CausalLM(config).eval(), Tokenizer(data.tokenizer_path)
    targets = choose_targets(read_documents(data, "test"), 64, 5)
    use = scale_use(model, targets, 64, tokenizer, token_counts(data))
    assert use.tokens == 5 * 64
    assert np.shape(use.by_head) == (2, 2, 3)
    assert np.shape(use.by_layer) == (2, 3)
    ids = torch.from_numpy(np.stack([t.tokens[t.stop - 64 : t.stop] for t in targets]).astype(np.int64))
    weights = [layer for layer, _ in scale_weights(model, ids)]
    for layer, means in zip(weights, use.by_layer, strict=True):
        assert means == pytest.approx(layer.mean((1, 2, 3)).tolist(), rel=1e-4)
    coarse, total = sum(w[1:].sum() for w in weights), sum(w.sum() for w in weights)
    for grouping in (use.classes, use.ranks):
        assert sum(lean.tokens for lean in grouping) == use.tokens
        assert all(0 <= lean.lean <= 1 for lean in grouping)
        assert min(lean.lean for lean in grouping) <= coarse / total <= max(lean.lean for lean in grouping)
    assert [lean.lean for lean in use.most] == sorted((lean.lean for lean in use.most), reverse=True)
    assert use.least[0].lean <= use.most[-1].lean
    assert len(use.passage.pieces) == len(use.passage.lean) == 64
