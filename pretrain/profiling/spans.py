"""Spans of `torch.profiler.record_function` around the parts of a step."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

PREFIX = "part: "
"""What a span's name begins with; the name of the part follows."""
OTHER, MODEL, BACKWARD, COMMUNICATION = "other", "model, the rest", "gradients, the rest", "communication"
_OF_MODULE = {
    "embedding": "embedding",
    "attention_norm": "norms",
    "ffn_norm": "norms",
    "norm": "norms",
    "ffn": "feed-forward",
    "lm_head": "head and loss",
    "blocks": "residuals and dropout",
    "attention": "attention: scores over spans",
    "local": "attention: local context",
    "decompose": "attention: decomposition",
    "gates": "attention: gates",
    "query": "attention: queries and keys",
    "key": "attention: queries and keys",
    "value": "attention: values",
    "aggregate": "attention: aggregation",
    "out": "attention: output",
}
"""The part of a module, by the name that it has in the one that it is an attribute of."""
_COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_reduce", "all_to_all_single", "barrier", "broadcast", "reduce",
    "reduce_scatter", "reduce_scatter_tensor",
)  # fmt: skip


def step_span() -> record_function:
    """Around a whole step; what no other span has is `OTHER`."""
    return record_function(PREFIX + OTHER)


@contextmanager
def recorded_parts(trainer: Any) -> Iterator[None]:
    """The parts of every step of `trainer` have spans inside the block, and nothing is left of them after it.

    A compiled model is one part: hooks inside of it would have it compiled again.
    """
    engine = trainer.engine
    with ExitStack() as stack:
        stack.enter_context(_wrapped(trainer, "batches", "data"))
        stack.enter_context(_wrapped(engine, "backward", BACKWARD))
        stack.enter_context(_wrapped(engine, "step", "optimiser"))
        for name in _COLLECTIVES:
            stack.enter_context(_wrapped(torch.distributed, name, COMMUNICATION))
        stack.enter_context(_hooked(engine, MODEL))
        for name, module in [] if trainer.config.compile else engine.module.named_modules():
            path = [part for part in name.split(".") if not part.isdigit()]
            # a list of modules is never called, its members are: they have its name
            if path and path[-1] in _OF_MODULE and not isinstance(module, nn.ModuleList):
                stack.enter_context(_hooked(module, _OF_MODULE[path[-1]]))
        yield


@contextmanager
def _wrapped(owner: Any, name: str, part: str) -> Iterator[None]:
    """The function `owner.name` has a span around each call."""
    own = vars(owner).get(name)
    function: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(function)
    def with_span(*args: Any, **kwargs: Any) -> Any:
        with record_function(PREFIX + part):
            return function(*args, **kwargs)

    setattr(owner, name, with_span)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def _hooked(module: nn.Module, part: str) -> Iterator[None]:
    """The forward passes of `module` have a span, also those that recomputation ends early."""
    open_spans: list[record_function] = []

    def before(*_: Any) -> None:
        open_spans.append(record_function(PREFIX + part))
        open_spans[-1].__enter__()

    def after(*_: Any) -> None:
        open_spans.pop().__exit__(None, None, None)

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
