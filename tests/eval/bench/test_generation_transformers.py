"""The benchmark of generation in transformers."""

import itertools

import pytest

from eval.bench import generation_transformers

pytest.importorskip("transformers")


def test_speed_counts_the_new_tokens_of_all_rows_after_the_first() -> None:
    model = generation_transformers.models()["MAHA"]
    ticks = itertools.count()  # one second a look at the clock
    row = generation_transformers.speed(model, 3, 20, 5, True, clock=lambda: float(next(ticks)))
    assert (row["prompt_seconds"], row["tokens_per_s"]) == (1, 3 * 4 / 4)


def test_llama_has_the_size_of_maha_and_its_cache_grows_where_ours_does_not() -> None:
    built = generation_transformers.models()
    sizes = [sum(p.numel() for p in model.parameters()) for model in built.values()]
    assert max(sizes) / min(sizes) < 1.1
    (maha, longer), (llama, more) = (
        [generation_transformers.speed(model, 2, n, 3, True)["cache_bytes"] for n in (100, 400)]
        for model in built.values()
    )
    assert maha == longer
    assert more > 3 * llama
