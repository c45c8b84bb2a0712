"""Generation in `transformers`: MAHA with its cache, without, and beside transformers' own Llama of the same size."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data_pipeline import UserError
from eval.bench.criteria import Criterion
from maha_model import ModelConfig

SIZE: dict[str, Any] = {"vocab_size": 512, "num_layers": 2, "init_std": 0.06}
"""Beside those of the size `sample`."""


def models() -> dict[str, Any]:
    """Fresh models of `transformers`, in evaluation mode: MAHA, and Llama with as many layers of the same widths.

    Raises:
        UserError: if `transformers` is not installed.
    """
    try:
        from transformers import LlamaConfig, LlamaForCausalLM

        from maha_model.huggingface import MAHAPreTrainedConfig, MAHAPreTrainedForCausalLM
    except ImportError as error:
        raise UserError(f"--transformers needs what is not installed ({error}); run: launch/setup.sh hub") from error
    torch.manual_seed(0)
    config = ModelConfig.named("sample", **SIZE)
    llama = LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.d_model, intermediate_size=config.d_ff,
        num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads, tie_word_embeddings=True,
        max_position_embeddings=1 << 20,
    )  # fmt: skip
    maha = MAHAPreTrainedForCausalLM(MAHAPreTrainedConfig(**config.to_dict()))
    return {"MAHA": maha.eval(), "Llama": LlamaForCausalLM(llama).eval()}


def speed(
    model: Any, batch: int, prompt: int, new: int, use_cache: bool, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of the prompt, new tokens a second of all rows after the first, and bytes of the cache."""
    times = []

    def record(_: Tensor, scores: Tensor) -> Tensor:
        times.append(clock())
        return scores

    ids = torch.randint(SIZE["vocab_size"], (batch, prompt), generator=torch.Generator().manual_seed(0))
    start = clock()
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
        use_cache=use_cache, logits_processor=[record], return_dict_in_generate=True, pad_token_id=0,
    )  # fmt: skip
    return {
        "prompt_seconds": times[0] - start,
        "tokens_per_s": batch * (len(times) - 1) / (times[-1] - times[0]),
        "cache_bytes": _bytes(out.cache) if use_cache else 0,
    }


def _bytes(cache: Any) -> int:
    if hasattr(cache, "num_bytes"):
        return cache.num_bytes()
    return sum(x.untyped_storage().nbytes() for layer in cache.layers for x in (layer.keys, layer.values))


def measure(
    batch: int, prompt: int, new: int, uncached: int, long: int
) -> tuple[list[str], list[Criterion], dict[str, Any]]:
    """Lines, criteria and details: MAHA after `prompt` tokens with a cache and without, and with Llama after `long`."""
    built = models()
    cases = [("MAHA", prompt, new, True), ("MAHA", prompt, uncached, False)]
    cases += [(name, long, new, True) for name in built]
    for model in built.values():
        speed(model, batch, 64, 3, True)  # warm-up
    rows: list[dict[str, Any]] = [
        {"model": name, "batch": batch, "prompt": n, "new": count, "cached": cached}
        | speed(built[name], batch, n, count, cached)
        for name, n, count, cached in cases
    ]
    cached, full, maha, llama = rows
    criteria = [
        Criterion(
            f"tokens/s after {prompt} tokens with a cache over those without, batch {batch}",
            cached["tokens_per_s"] / full["tokens_per_s"], 20, at_least=True,
        ),
        Criterion(
            f"tokens/s after {long} tokens over those of transformers' Llama with its cache, batch {batch}",
            maha["tokens_per_s"] / llama["tokens_per_s"], 5, at_least=True,
        ),
    ]  # fmt: skip
    lines = [f"{'model':8}{'prompt':>8}{'new':>6}{'cache':>7}{'prompt s':>10}{'tokens/s':>10}{'cache KiB':>11}"]
    lines += [
        f"{row['model']:8}{row['prompt']:>8}{row['new']:>6}{'yes' if row['cached'] else 'no':>7}"
        f"{row['prompt_seconds']:>10.2f}{row['tokens_per_s']:>10.1f}{row['cache_bytes'] / 1024:>11.1f}"
        for row in rows
    ]
    return lines, criteria, {"threads": torch.get_num_threads(), "transformers": rows}
