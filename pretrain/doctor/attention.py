"""Blocks of each model, forward and backward, beside torch's flash attention alone."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from maha_model import ModelConfig
from maha_model.initialization import initialize
from maha_model.transformer import Block
from pretrain.doctor.report import Finding
from pretrain.doctor.setting import MODELS, Setting
from pretrain.doctor.timing import seconds_of

LENGTHS = (4096, 16384, 65536)
FLASH = "flash attention alone"
KEYS = ("width", "heads", "dtype", "not_measured", *(f"seconds_at_{length}" for length in LENGTHS))


def check_attention(setting: Setting) -> Finding:
    """Seconds by length and model; None of a model that does not fit into the memory, under `not_measured` why."""
    width, heads = setting.choose((64, 2), (256, 4), (2048, 16))
    lengths = setting.choose((128,), LENGTHS[:1], LENGTHS)
    dtype = str(setting.dtype).removeprefix("torch.")
    values: dict[str, Any] = {"width": width, "heads": heads, "dtype": dtype, "not_measured": {}}
    reasons = {f"seconds_at_{length}": "left out by --quick" if setting.quick else "takes too long on a CPU"
               for length in LENGTHS if length not in lengths}  # fmt: skip
    parts = []
    for length in lengths:
        times, lost = _times(setting, length, width, heads)
        values[f"seconds_at_{length}"] = times
        values["not_measured"] |= {f"{name} at {length}": why for name, why in lost.items()}
        parts.append(_described(length, times))
    return Finding("; ".join(parts), values, reasons)


def _times(setting: Setting, length: int, width: int, heads: int) -> tuple[dict[str, float | None], dict[str, str]]:
    """Seconds by name, and why some are None."""
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        FLASH: functools.partial(_flash, setting, length, width, heads)
    }
    makers |= {name: functools.partial(_block, setting, length, width, heads, name) for name in MODELS}
    times: dict[str, float | None] = {}
    lost = {}
    for name, make in makers.items():
        try:
            times[name] = seconds_of(make(), setting.choose(0.0, 0.5, 0.5))
        except torch.OutOfMemoryError:
            times[name], lost[name] = None, "does not fit into the memory"
        except RuntimeError as error:
            if name != FLASH:
                raise
            times[name], lost[name] = None, str(error).partition("\n")[0]  # a GPU or dtype without that kernel
        setting.release()
    return times, lost


def _flash(setting: Setting, length: int, width: int, heads: int) -> Callable[[], Any]:
    """Full causal attention of queries, keys and values that are there, by the flash kernel and no other."""
    shape = (1, heads, length, width // heads)
    q, k, v = (torch.randn(shape, device=setting.device, dtype=setting.dtype, requires_grad=True) for _ in range(3))
    direction = torch.randn(shape, device=setting.device, dtype=setting.dtype)

    def step() -> None:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            torch.autograd.grad(scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), direction)

    return step


def _block(setting: Setting, length: int, width: int, heads: int, name: str) -> Callable[[], Any]:
    """A block with projections and feed-forward network."""
    d_ff = -(-8 * width // 3 // 128) * 128  # of whole tiles, as one chooses it for a GPU
    config = ModelConfig(
        vocab_size=1, context_length=length, d_model=width, num_heads=heads, num_layers=1, d_ff=d_ff,
        **{"span": 128, **MODELS[name]},
    )  # fmt: skip
    block = Block(config)
    initialize(block, config)
    block = block.to(setting.device, setting.dtype)
    x = torch.randn(1, length, width, device=setting.device, dtype=setting.dtype, requires_grad=True)
    direction = torch.randn_like(x)
    leaves = [x, *block.parameters()]
    return lambda: torch.autograd.grad(block(x)[0], leaves, direction)


def _described(length: int, times: dict[str, float | None]) -> str:
    shown = (f"{name} {'-' if spent is None else f'{1e3 * spent:.1f}'}" for name, spent in times.items())
    return f"{length} tokens, ms: {', '.join(shown)}"
