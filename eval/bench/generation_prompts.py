"""Decoding after prompts of several lengths, in batches: MAHA and a Transformer with its cache, compiled and not."""

import copy
import time
from typing import Any

import torch

from eval.bench.criteria import Criterion
from maha_model import CausalLM, DecodingState

PROMPTS, BATCHES = [1024, 4096, 16384], [1, 8]
PART, ROUNDS = 64, 8
"""Tokens that a state decodes before it is another one's turn, and how often; of all parts' first tokens the fastest
counts, and so on for the others: a busy machine disturbs that least."""


def measure(models: dict[str, CausalLM]) -> list[dict[str, Any]]:
    """Speed, compiled and not, and bytes of the states of every model, batch and prompt, all decoding in turns."""
    device = next(iter(models.values())).lm_head.weight.device
    generator, vocab_size = torch.Generator().manual_seed(0), min(m.config.vocab_size for m in models.values())
    prompt_N = torch.randint(vocab_size, (max(PROMPTS),), generator=generator).to(device)
    cases = [(name, prompt) for name in models for prompt in PROMPTS]
    prompted: dict[tuple[str, int, bool], DecodingState] = {}
    seconds: dict[tuple[str, int], float] = {}
    for name, prompt in cases:
        for compiled in (False, True):
            state = prompted[name, prompt, compiled] = DecodingState(models[name], compile=compiled)
            start = time.perf_counter()
            state.prefill(prompt_N[None, :prompt]).cpu()
            seconds[name, prompt] = time.perf_counter() - start
    rows = []
    for batch in BATCHES:
        states = {case: copy.deepcopy(state) for case, state in prompted.items()}
        for state in states.values():
            state.select(torch.zeros(batch, dtype=torch.int64, device=device))
        ids_NB = torch.randint(vocab_size, (PART, batch), generator=generator).to(device)
        for state in states.values():  # compiles
            _decode(state, ids_NB)
        parts = [{case: _decode(state, ids_NB) for case, state in states.items()} for _ in range(ROUNDS)]
        best = {case: sum(map(min, zip(*(part[case] for part in parts), strict=True))) for case in states}
        rows += [
            {
                "model": name, "batch": batch, "prompt": prompt, "prompt_seconds": seconds[name, prompt],
                "tokens_per_s": batch * PART / best[name, prompt, False],
                "compiled_tokens_per_s": batch * PART / best[name, prompt, True],
                "state_bytes": states[name, prompt, True].num_bytes(),
            }
            for name, prompt in cases
        ]  # fmt: skip
    return rows


def _decode(state: DecodingState, ids_NB: torch.Tensor) -> list[float]:
    """Seconds of every step."""
    seconds = []
    for ids_B in ids_NB:
        start = time.perf_counter()
        state.step(ids_B)
        if ids_B.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def criteria_of(rows: list[dict[str, Any]], peer: str) -> list[Criterion]:
    """Compiled, each model beside the cached `peer` after the shortest prompt, and after the longest beside itself."""
    of = {(row["model"], row["batch"], row["prompt"]): row for row in rows}
    first, last = min(PROMPTS), max(PROMPTS)
    criteria = []
    for batch in BATCHES:
        reference = of[peer, batch, first]["tokens_per_s"]
        for name in dict.fromkeys(row["model"] for row in rows if row["model"] != peer):
            near, far = (of[name, batch, prompt]["compiled_tokens_per_s"] for prompt in (first, last))
            criteria += [
                Criterion(
                    f"{name}, compiled, batch {batch}: tokens/s after {first} tokens over those of a Transformer with "
                    "its cache, not compiled", near / reference, 1, at_least=True,
                ),
                Criterion(
                    f"{name}, compiled, batch {batch}: time of a token after {last} tokens over that after {first}",
                    near / far, 1.2,
                ),
            ]  # fmt: skip
    return criteria


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """A table."""
    lines = [
        f"after a prompt: {'model':14}{'batch':>6}{'prompt':>8}{'seconds':>9}{'tokens/s':>10}{'compiled':>10}"
        f"{'state KiB':>11}"
    ]
    return lines + [
        f"{'':16}{row['model']:14}{row['batch']:>6}{row['prompt']:>8}{row['prompt_seconds']:>9.2f}"
        f"{row['tokens_per_s']:>10.0f}{row['compiled_tokens_per_s']:>10.0f}{row['state_bytes'] / 1024:>11.1f}"
        for row in rows
    ]
