"""One of the processes of test_model: every case on a part of the window, the first process against the whole of it."""

import json
import os

import torch
import torch.distributed as dist

from maha_model import CausalLM, DecodingState, ModelConfig
from maha_model.parallel import ContextSplit, part_sizes, register_group

SMALL = {"vocab_size": 31, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "num_scales": 3, "ratio": 2}
DESCENT = {"query": "fine", "positions": "token", "descent": 2}
CASES = {
    "coarse": {"span": 5},
    "coarse, ratio 3": {"span": 4, "ratio": 3, "projections": "separate", "positions": "token"},
    "coarse, span of one": {"span": 1},
    "coarse, full": {"span": "full"},
    "fine": {"span": 4, "query": "fine"},
    "fine, full": {"span": "full", "query": "fine", "positions": "token"},
    "fine, tokens": {"span": 3, "query": "fine", "positions": "token", "ratio": 3, "num_scales": 2},
    "gates, dilation": {"span": 5, "gating": True, "dilation": 2},
    "gates, fine": {"span": 5, "gating": True, "query": "fine", "values": "separate"},
    "pooling": {"span": 4, "decomposition": "max_pool", "gating": True},
    "value target": {"span": 6, "aggregation": {"target": "value", "domain": "budget"}},
    "mean": {"span": 6, "aggregation": {"strategy": "mean"}, "recompute": "selective"},
    "bounds": {"span": 3, **DESCENT},
    "bounds, groups": {"span": 3, **DESCENT, "descent_groups": 1, "dilation": 1, "recompute": "selective"},
    "taps": {"span": 3, **DESCENT, "key_summary": "taps", "aggregation": {"strategy": "joint"}},
    "taps, ratio 3": {"span": 3, "ratio": 3, **DESCENT, "key_summary": "taps", "recompute": "block"},
    "index": {"span": 3, **DESCENT, "choice": "index", "aggregation": {"strategy": "joint"}},
    "index, ratio 3": {"span": 4, "ratio": 3, **DESCENT, "choice": "index", "dilation": 1, "recompute": "selective"},
    "transformer": {"attention": "standard", "recompute": "selective"},
    "transformer, dilation": {"attention": "standard", "dilation": 2, "local_activation": "none"},
    "longformer": {"attention": "longformer", "span": 5},
}
LENGTHS = {2: 64, 3: 37, 4: 37}
"""Tokens of a window by the number of processes: whole units, and odd ones whose last part is short."""


def config_of(options: dict) -> ModelConfig:
    return ModelConfig.from_dict({**SMALL, **{key: value for key, value in options.items() if key != "recompute"}})


def run(options: dict, length: int, split: ContextSplit | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of one window, some targets of which are not scored, and the gradients of all weights."""
    torch.manual_seed(0)
    model = CausalLM(config_of(options)).double()
    model.activation_checkpointing, model.context_parallel = options.get("recompute", "none"), split
    ids, targets = torch.randint(31, (2, 2, length), generator=torch.Generator().manual_seed(1))
    targets[:, : length // 3] = -100
    own = slice(None) if split is None else split.own
    loss = model(ids[:, own], targets[:, own]).loss
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


def decoded(options: dict, length: int, split: ContextSplit | None) -> torch.Tensor:
    """Logits of a prompt's next token and of some after it; with a split, of the process that has the last part."""
    torch.manual_seed(0)
    model = CausalLM(config_of(options)).double()
    prompt, after = torch.randint(31, (2, length + 9), generator=torch.Generator().manual_seed(1)).split([length, 9], 1)
    state, model.context_parallel = DecodingState(model, 2), split
    logits = [state.prefill(prompt if split is None else prompt[:, split.own])]
    model.context_parallel = None
    if split is None or split.place == len(split.sizes) - 1:
        logits += [state.step(ids) for ids in after.unbind(1)]
    return torch.stack(logits)


def _tell(name: str, error: float) -> None:
    """In one write: print makes several of a line, between which another process may write its own."""
    os.write(1, f"ERROR {json.dumps([name, error])}\n".encode())


def main() -> None:
    """Print the largest relative error of every case."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    group = register_group(dist.group.WORLD)
    length = LENGTHS[world]
    for name, options in CASES.items():
        unit = config_of(options).context_unit
        split = ContextSplit(part_sizes(length, world, unit), rank, group)
        loss, grads = run(options, length, split)
        logits = decoded(options, length, split)
        for grad in grads:
            dist.all_reduce(grad)
            grad /= world
        if rank == 0:
            expected = run(options, length, None)
            scale = max(grad.abs().max() for grad in expected[1])
            error = max((a - b).abs().max() / scale for a, b in zip(grads, expected[1], strict=True))
            _tell(name, float(max(error, (loss - expected[0]).abs())))
        if rank == world - 1:
            error = (logits - decoded(options, length, None)).abs().max()
            _tell(f"{name}, decoding", float(error))
    dist.destroy_process_group()
