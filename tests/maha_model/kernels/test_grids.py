"""The grids that Triton's kernels are launched in, counted without launching them."""

import contextlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch

import maha_model.kernels
from maha_model import CausalLM, ModelConfig
from maha_model.launches import Launches

DESCENT = {"query": "fine", "positions": "token", "descent": 8, "descent_groups": 2}
MODELS: dict[str, dict[str, Any]] = {
    "paper": {"dilation": 1},
    "four scales": {"num_scales": 4},
    "descent": DESCENT,
    "descent of taps": {**DESCENT, "key_summary": "taps"},
    "index": {**DESCENT, "num_scales": 2, "choice": "index"},
}


def function_of(kernel: Any) -> Any:
    while not inspect.isfunction(kernel):
        kernel = kernel.fn
    return kernel


@contextlib.contextmanager
def grids_seen() -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Inside, (kernel's name, grid) is listed for every launch, in place of it."""
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    seen: list[tuple[str, tuple[int, ...]]] = []

    def run(kernel: Any, *_: Any, grid: Any, **arguments: Any) -> None:
        for config in getattr(kernel, "configs", [])[:1]:
            arguments |= config.kwargs
        seen.append((function_of(kernel).__name__, tuple(grid(arguments) if callable(grid) else grid)))

    with Launches(), contextlib.ExitStack() as patches:
        for kind in (Autotuner, InterpretedFunction, JITFunction):
            patches.enter_context(mock.patch.object(kind, "run", run))
        yield seen


def launched_kernels() -> set[str]:
    """Names of all kernels of the project that no other calls."""
    sources = {}
    for module in pkgutil.walk_packages(maha_model.kernels.__path__, "maha_model.kernels."):
        if "triton" in module.name:
            for value in vars(importlib.import_module(module.name)).values():
                if "triton" in type(value).__module__ and hasattr(value, "arg_names"):
                    function = function_of(value)
                    sources[function.__name__] = inspect.getsource(function)
    return {name for name in sources if sum(len(re.findall(rf"\b{name}\(", x)) for x in sources.values()) == 1}


def test_a_batch_of_many_documents_fits_into_every_grid() -> None:
    """One with 66,000 short documents: of a GPU's grid only the first dimension is longer than 65,535."""
    pytest.importorskip("triton")
    launched = set()
    for options in MODELS.values():
        with torch.device("meta"):
            model = CausalLM(ModelConfig.named("sample", vocab_size=512, num_layers=1, **options)).to(torch.bfloat16)
            ids = torch.zeros(66_000, 256, dtype=torch.long)
        with grids_seen() as seen:
            model(ids, ids).loss.backward()
        for kernel, grid in seen:
            assert len(grid) == 1, (kernel, grid)
            assert 0 < grid[0] < 2**31, (kernel, grid)
            launched.add(kernel)
    assert launched == launched_kernels()
