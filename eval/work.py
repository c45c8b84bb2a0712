"""The work of attention scores that a model really does, and the dial that trades it against quality.

Scales whose weight is exactly zero are not computed at inference (docs/model.md, "Zero weights"), so a higher price of
a scale is less work.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701

from data_pipeline import UserError
from maha_model import CausalLM
from maha_model.attention import MAHAAttention
from maha_model.kernels import which
from maha_model.kernels.descent import Geometry, pairs_seen
from maha_model.kernels.index import pairs_compared


class ScoreWork(TorchDispatchMode):
    """Inside, the multiply-adds of the products of queries with the keys that they see, of descents.

    Of every call of the operator those queries count that it computes, each with the tokens that are visible to it; of
    an index all, each with the tokens before its near ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = self._queries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operation and run it."""
        if func is torch.ops.maha.attend_level.default:
            q, k, _, parents, _, geometry, *wanted = args
            pairs = pairs_seen(q, k, parents, Geometry(*geometry), wanted[0] if wanted else None)
            self.multiply_adds += k.shape[3] * pairs
            self._queries += q.shape[0] * q.shape[2] if geometry[0] == 1 else 0
        elif func is torch.ops.maha.choose_blocks.default:
            self.multiply_adds += pairs_compared(*args) * args[0].shape[3]
        return func(*args, **(kwargs or {}))

    def per_token(self, model: CausalLM) -> float:
        """Multiply-adds of all layers and heads of `model` for each token of its batches, padding included."""
        return self.multiply_adds * model.config.num_layers / self._queries


def turn_dial(model: CausalLM, sparsity: float) -> None:
    """Another price of scales for a trained model: lambda, with `gate` the threshold.

    Raises:
        UserError: if the work of the model cannot be counted: without a descent, or without its operator.
        ConfigError: for a value or a strategy that does not work.
    """
    if model.config.attention != "maha" or not model.config.descent:
        raise UserError("sparsity changes the work of a model with a descent only; leave it out for this one")
    parameter = model.lm_head.weight
    if which("descent", parameter.device.type, dtype=parameter.dtype) == "reference":
        raise UserError("only the compiled attention skips scales; install a C++ compiler (g++, or set CXX)")
    for module in model.modules():
        if isinstance(module, MAHAAttention):
            module.aggregate.set_sparsity(sparsity)
