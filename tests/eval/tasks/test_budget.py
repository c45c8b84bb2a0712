"""Score entries against a count of visible pairs; the window of equal work is the least one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from eval.tasks.budget import equal_span, score_entries
from maha_model import ModelConfig

SMALL = {"vocab_size": 8, "d_model": 8, "num_heads": 2, "num_layers": 1, "d_ff": 8}


@settings(deadline=None, max_examples=50)
@given(
    length=st.integers(16, 90), span=st.integers(1, 30), ratio=st.integers(2, 4), scales=st.integers(1, 3),
    query=st.sampled_from(["coarse", "fine"]),
)  # fmt: skip
def test_entries_are_the_visible_pairs_of_all_scales(
    length: int, span: int, ratio: int, scales: int, query: str
) -> None:
    settings = {**SMALL, "context_length": length, "span": span, "ratio": ratio, "num_scales": scales, "query": query}
    expected = 0
    for scale in range(scales):
        cover, n = ratio**scale, length // ratio**scale
        for asked in range(length if query == "fine" else n):
            newest = (asked + 1) // cover - 1 if query == "fine" else asked
            expected += sum(newest - span < key <= newest for key in range(n))
    config = ModelConfig.from_dict(settings)
    assert score_entries(config, length) == expected
    window = equal_span(config, length)
    narrow, wide = (
        score_entries(ModelConfig.from_dict({**settings, "attention": "longformer", "span": w}), length)
        for w in (max(1, window - 1), window)
    )
    full = score_entries(ModelConfig.from_dict({**settings, "attention": "standard"}), length)
    assert full == length * (length + 1) // 2
    assert wide >= min(expected, full)
    assert window == 1 or narrow < expected


@settings(deadline=None, max_examples=30)
@given(length=st.integers(16, 90), ratio=st.integers(2, 4), scales=st.integers(1, 3), top=st.integers(1, 4))
def test_a_bound_counts_as_two_keys(length: int, ratio: int, scales: int, top: int) -> None:
    settings = {**SMALL, "context_length": length, "span": 3, "ratio": ratio, "descent": top}
    settings |= {"num_scales": scales, "query": "fine", "positions": "token"}
    keys, bounds = (
        score_entries(ModelConfig.from_dict({**settings, "key_summary": kind}), length) for kind in ("taps", "bounds")
    )
    reached = length * (length + 1) // 2 if scales == 1 else sum(min(t + 1, 3 + top * ratio) for t in range(length))
    assert bounds == 2 * keys - reached


@settings(deadline=None, max_examples=30)
@given(
    length=st.integers(30, 90), span=st.integers(4, 12), coarse=st.integers(4, 9), ratio=st.integers(2, 5),
    scales=st.integers(1, 3), top=st.integers(1, 4), groups=st.sampled_from([None, 2]), width=st.integers(1, 5),
)  # fmt: skip
def test_an_index_counts_its_products_by_their_width_and_its_blocks(
    length: int, span: int, coarse: int, ratio: int, scales: int, top: int, groups: int | None, width: int
) -> None:
    settings = {**SMALL, "context_length": length, "span": span, "coarse_span": coarse, "ratio": ratio, "descent": top}
    settings |= {"num_scales": scales, "query": "fine", "positions": "token", "choice": "index", "index_dim": width}
    config = ModelConfig.from_dict({**settings, "descent_groups": groups})
    expected = 0.0
    for t in range(length):
        expected += min(t + 1, span + top * ratio)  # the newest tokens, and blocks
        for scale in range(1, scales):
            finished = (t + 1) // ratio**scale
            expected += min(finished, coarse)
        expected += (t + 1) * (groups or 1) * width / (config.num_heads * config.head_dim)
    assert score_entries(config, length) == round(expected)
