"""The instruments of the decoding benchmark."""

from typing import Any

import pytest

from eval.bench import generation, generation_prompts
from maha_model import DecodingState


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


def test_decoding_after_prompts_is_measured_for_every_model_batch_and_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROMPTS": [16, 32], "BATCHES": [1, 3], "PART": 2, "ROUNDS": 2}.items():
        monkeypatch.setattr(generation_prompts, name, value)
    monkeypatch.setattr(generation_prompts, "DecodingState", lambda model, compile: DecodingState(model))
    rows = generation_prompts.measure({"MAHA": generation.build("maha"), "standard": generation.build("standard")})
    assert [(row["model"], row["batch"], row["prompt"]) for row in rows] == [
        (model, batch, prompt) for batch in (1, 3) for model in ("MAHA", "standard") for prompt in (16, 32)
    ]
    sizes = {(row["model"], row["batch"], row["prompt"]): row["state_bytes"] for row in rows}
    assert sizes["MAHA", 1, 16] == sizes["MAHA", 1, 32] < sizes["MAHA", 3, 32]


def test_compiled_steps_are_compared_with_the_uncompiled_peer_and_with_their_own_after_a_shorter_prompt() -> None:
    speeds = {("MAHA", 1024): (1, 6), ("MAHA", 16384): (1, 5), ("standard", 1024): (4, 9), ("standard", 16384): (2, 3)}
    rows = [
        {"model": model, "batch": batch, "prompt": prompt, "tokens_per_s": plain, "compiled_tokens_per_s": compiled}
        for batch in (1, 8) for (model, prompt), (plain, compiled) in speeds.items()
    ]  # fmt: skip
    criteria = generation_prompts.criteria_of(rows, "standard")
    assert [criterion.value for criterion in criteria] == [6 / 4, 6 / 5] * 2
    assert all(criterion.passed for criterion in criteria)


def test_a_typical_token_is_the_median_over_periods() -> None:
    assert generation.typical([1, 3, 1, 3, 1, 99, 2, 2], 2) == 2
