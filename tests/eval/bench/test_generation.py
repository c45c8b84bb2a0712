"""The instruments of the decoding benchmark."""

from typing import Any

import pytest

from eval.bench import generation


@pytest.mark.parametrize("fields", [{}, {**generation.DESCENT, "num_scales": 3}])
def test_long_decoding_is_compared_with_the_full_forward(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "PART", 64)
    model = generation.build("maha", **fields)
    result = generation.decode_long(model, generation.random_ids(model, 256))
    assert result["state_bytes"].keys() == result["tokens_per_s"].keys() == {64, 128, 256}
    assert (len(set(result["state_bytes"].values())) == 1) == (not fields)  # with a descent it grows
    assert result["logits_compared"] == 4 + 2 * 64
    assert 0 < result["logit_difference"] <= 1e-5 * result["largest_logit"]


def test_a_typical_token_is_the_median_over_periods() -> None:
    assert generation.typical([1, 3, 1, 3, 1, 99, 2, 2], 2) == 2
