"""torch.compile on this device: one graph for a whole pass, its code built here, and the eager numbers."""

import dataclasses
import time
from typing import Any

import torch

from maha_model import CausalLM
from pretrain.doctor.report import Finding
from pretrain.doctor.setting import MODELS, Setting
from pretrain.doctor.training import run_config

KEYS = ("backend", "dtype", "seconds", "loss_differences", "gradient_differences")
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Of the loss, and of the norm of all gradients, relative."""


def check_compile(setting: Setting) -> Finding:
    """Small models of one layer; on a CPU MAHA alone, with --quick without generated code."""
    backend = "eager" if setting.quick else "inductor"
    names = setting.choose(("MAHA",), ("MAHA",), tuple(MODELS))
    found = {name: _compared(setting, name, backend) for name in names}
    kinds = ("seconds", "loss_differences", "gradient_differences")
    values: dict[str, Any] = {kind: {name: each[i] for name, each in found.items()} for i, kind in enumerate(kinds)}
    values |= {"backend": backend, "dtype": str(setting.dtype).removeprefix("torch.")}
    limit = TOLERANCES[setting.dtype]
    faults = [
        f"{name}: compiled {what} differ by {error:.1e} (at most {limit:.0e})"
        for name, (_, loss, gradient) in found.items()
        for what, error in (("losses", loss), ("gradients", gradient))
        if not error <= limit
    ]
    spent = ", ".join(f"{name} in {seconds:.1f} s" for name, seconds in values["seconds"].items())
    return Finding(f"{backend}, one graph each: {spent}", values, faults=faults)


def _compared(setting: Setting, name: str, backend: str) -> tuple[float, float, float]:
    """Seconds of the first compiled pass; differences of loss and gradient norm."""
    config = run_config(dataclasses.replace(setting, quick=True), "paper", name).model
    torch.manual_seed(0)
    model = CausalLM(config).to(setting.device, setting.dtype)
    ids = torch.randint(config.vocab_size, (1, config.context_length), device=setting.device)
    torch.compiler.reset()
    start = time.monotonic()
    loss, gradient = _pass(model, torch.compile(model, fullgraph=True, backend=backend), ids)
    seconds = time.monotonic() - start
    eager_loss, eager_gradient = _pass(model, model, ids)
    return seconds, abs(loss / eager_loss - 1), abs(gradient / eager_gradient - 1)


def _pass(model: CausalLM, function: Any, ids: torch.Tensor) -> tuple[float, float]:
    """Loss, and norm of the gradients."""
    model.zero_grad()
    loss = function(ids, ids).loss
    loss.backward()
    grads = [parameter.grad.double() for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), float(torch.stack([grad.norm() for grad in grads]).norm())
