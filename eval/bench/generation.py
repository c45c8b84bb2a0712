"""Decoding token by token: python -m eval.bench_generate [--checkpoint RUN] [--json], or --transformers.

64k tokens one by one through a small MAHA model, random ones: time of the last 1k tokens against the first 1k, size of
the state, logits against the full forward; the same with a descent, whose state grows as a cached Transformer's. The
first 1k are those of a second sequence, decoded in turn with the last 1k of the long one, so that a busy machine slows
both alike.

Before that, tokens after prompts of 1k, 4k and 16k in batches of 1 and 8, with steps as they are and compiled: MAHA
beside a Transformer with its cache, all in turns. --after-prompts measures that alone.

With --transformers instead: `generate` of transformers with a cache and without, and beside transformers' own Llama of
the same size. The sizes are small; those of the limits are --prompt 8192 --new 1024 --long 32768.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from data_pipeline import CommandParser, at_least, user_errors
from eval.bench import generation_prompts, generation_transformers
from eval.bench.criteria import Criterion, print_report
from eval.device import add_device_option, device_title
from maha_model import CausalLM, DecodingState, ModelConfig
from pretrain.checkpoint import find_checkpoint, load_model

TOKENS, PART = 65536, 1024
CHECKED_EVERY = 61  # odd, so that all phases of the coarse scales occur

DESCENT: dict[str, Any] = {
    "descent": 4, "query": "fine", "positions": "token", "num_scales": 6, "coarse_span": 16, "context_length": TOKENS,
}  # fmt: skip
"""Of 64k tokens the coarsest scale, which is seen whole, has 64."""


def build(attention: str, **fields: Any) -> CausalLM:
    """Two fresh layers of the sample size; MAHA has 3 scales, ratio 4, span 64."""
    torch.manual_seed(0)
    config = ModelConfig.named("sample", vocab_size=512, num_layers=2, init_std=0.06, attention=attention, **fields)
    return CausalLM(config).eval()


def decode(state: DecodingState, ids_N: Tensor) -> tuple[list[float], Tensor]:
    """Seconds of every step and the logits (N, V) after it."""
    seconds, logits = [], []
    for id_1 in ids_N.split(1):
        start = time.perf_counter()
        logits.append(state.step(id_1))
        if id_1.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds, torch.cat(logits)


def typical(seconds: list[float], period: int) -> float:
    """Seconds a token: the median over periods, in which every scale that moves moves equally often."""
    periods = [sum(seconds[i : i + period]) for i in range(0, len(seconds) - period + 1, period)]
    return statistics.median(periods) / period


def decode_long(model: CausalLM, ids_N: Tensor) -> dict[str, Any]:
    """Decode all N tokens, the last `PART` in turn with the first of a new state, and compare logits."""
    config = model.config
    period = config.ratio ** (config.num_scales - 1) if config.attention == "maha" else 1
    decode(DecodingState(model), ids_N[:256])  # warm-up
    state, bytes_after, curve, positions, found = DecodingState(model), {}, {}, [], []
    last = len(ids_N) - PART
    for start in range(0, last, PART):
        seconds, logits = decode(state, ids_N[start : start + PART])
        checked = [t for t in range(start, start + PART) if t % CHECKED_EVERY == 0]
        positions += checked
        found.append(logits[[t - start for t in checked]])
        if (state.position & (state.position - 1)) == 0:
            curve[state.position] = 1 / typical(seconds, period)
            bytes_after[state.position] = state.num_bytes()
    fresh, first_seconds, last_seconds = DecodingState(model), [], []
    for i in range(0, PART, period):
        first_seconds += decode(fresh, ids_N[i : i + period])[0]
        seconds, logits = decode(state, ids_N[last + i : last + i + period])
        last_seconds += seconds
        positions += range(last + i, last + i + len(logits))
        found.append(logits)
    bytes_after[state.position] = state.num_bytes()
    first_time, last_time = typical(first_seconds, period), typical(last_seconds, period)
    curve[state.position] = 1 / last_time

    prompted = DecodingState(model)  # the same last tokens after a prompt
    prompted.prefill(ids_N[None, :last])
    positions += range(last, len(ids_N))
    found.append(decode(prompted, ids_N[last:])[1])
    with torch.no_grad():
        expected = model.lm_head(model.transformer(ids_N[None])[0][0, positions])
    scale = expected.abs().max().item()
    return {
        "tokens": len(ids_N), "first_1k_tokens_per_s": 1 / first_time, "last_1k_tokens_per_s": 1 / last_time,
        "time_ratio": last_time / first_time, "tokens_per_s": curve, "state_bytes": bytes_after,
        "largest_logit": scale, "logits_compared": len(positions),
        "logit_difference": (torch.cat(found) - expected).abs().max().item(),
    }  # fmt: skip


def random_ids(model: CausalLM, length: int) -> Tensor:
    """Token ids (N), the same every time, where the model is."""
    ids_N = torch.randint(model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(0))
    return ids_N.to(model.lm_head.weight.device)


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a run's folder or a checkpoint (default: a fresh small MAHA model)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--transformers", action="store_true", help="measure generation in transformers instead")
    parser.add_argument("--after-prompts", action="store_true", help="measure tokens after prompts alone")
    add_device_option(parser)
    sizes = parser.add_argument_group("with --transformers")
    for name, value, text in (
        ("batch", 8, "rows"),
        ("prompt", 1024, "tokens before the new ones, with a cache and without"),
        ("new", 64, "new tokens"),
        ("uncached", 3, "new tokens without a cache, two at least"),
        ("long", 4096, "tokens before the new ones of MAHA and of Llama"),
    ):
        least = 2 if name in ("new", "uncached") else 1
        sizes.add_argument(f"--{name}", type=at_least(least), default=value, help=f"{text} (default {value})")
    args = parser.parse_args()
    if args.transformers:
        with user_errors():
            measured = generation_transformers.measure(args.batch, args.prompt, args.new, args.uncached, args.long)
        print_report(*measured, args.json)
        return
    with user_errors():
        model = load_model(find_checkpoint(args.checkpoint)) if args.checkpoint else build("maha")
    descending = build("maha", **DESCENT)
    models = {"MAHA": model, "MAHA, descent": descending, "standard": build("standard")}
    for each in models.values():
        each.to(args.device)
    rows = generation_prompts.measure(models)
    lines = generation_prompts.lines_of(rows)
    details: dict[str, Any] = {
        "device": device_title(args.device), "threads": torch.get_num_threads(), "after_prompts": rows,
    }  # fmt: skip
    # A checkpoint is not of the Transformer's size.
    criteria = [] if args.checkpoint else generation_prompts.criteria_of(rows, "standard")
    if args.after_prompts:
        print_report(lines, criteria, details, args.json)
        return
    result, descent = (decode_long(m, random_ids(m, TOKENS)) for m in (model, descending))
    sizes = result["state_bytes"]
    criteria += [
        Criterion("time of the last 1k of 64k tokens over that of the first 1k", result["time_ratio"], 1.1),
        Criterion("bytes of the state after 64k tokens over those after 1k", sizes[TOKENS] / sizes[PART], 1),
        Criterion(
            "largest difference from the full forward's logits over 64k tokens, relative to the largest logit",
            result["logit_difference"] / result["largest_logit"], 1e-5,
        ),
        Criterion("descent: time of the last 1k of 64k tokens over that of the first 1k", descent["time_ratio"], 1.2),
        Criterion(
            "descent: largest difference from the full forward's logits over 64k tokens, relative to the largest logit",
            descent["logit_difference"] / descent["largest_logit"], 1e-5,
        ),
    ]  # fmt: skip
    lines += [f"{'':15}{'tokens':>7}{'tokens/s':>10}{'state KiB':>11}"]
    lines += [
        f"{name:15}{n:>7}{speed:>10.0f}{found['state_bytes'][n] / 1024:>11.1f}"
        for name, found in (("MAHA", result), ("MAHA, descent", descent))
        for n, speed in found["tokens_per_s"].items()
    ]
    print_report(lines, criteria, {**details, "decoding": result, "descent": descent}, args.json)


if __name__ == "__main__":
    main()
