"""Time of the aggregation inside a block, beside a softmax gate in our kernel and in plain torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.bench.criteria import best_times
from maha_model import AggregationConfig, ModelConfig
from maha_model.aggregation import Aggregator
from maha_model.initialization import initialize
from maha_model.multiscale import upsample
from maha_model.transformer import Block


class PlainGate(nn.Module):
    """The learned softmax gate as one would write it in torch: projection, softmax, upsampling, weighted sum."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.d_model, config.num_scales * config.num_heads)

    def forward(self, x_BND: Tensor, outputs_BHnd: list[Tensor]) -> Tensor:
        """(B, N, D), L outputs (B, H, n, d) -> (B, N, H, d)."""
        config, N = self.config, x_BND.shape[1]
        scores = self.project(x_BND).unflatten(-1, (config.num_scales, config.num_heads))
        first = torch.tensor([config.ratio**level - 1 for level in range(config.num_scales)])
        absent = torch.arange(N)[:, None] < first
        weights = F.softmax(scores.masked_fill(absent[..., None], -torch.inf), dim=2)
        mixed = torch.zeros(())
        for level, output in enumerate(outputs_BHnd):
            placed = upsample(output.transpose(1, 2), config.ratio**level, N)
            mixed = mixed + weights[:, :, level, :, None] * placed
        return mixed


def bench_block(length: int = 4096) -> dict[str, float]:
    """Seconds, forward + backward, of a MAHA block (width 768, 12 heads) and of aggregations inside it."""
    torch.manual_seed(0)
    N = length
    functions: dict[str, Callable[[], Any]] = {}
    config = ModelConfig.named("paper", vocab_size=1, num_layers=1)
    block = Block(config)
    initialize(block, config)
    x = torch.randn(1, N, config.d_model, requires_grad=True)
    captured: list[Any] = []
    aggregate = block.get_submodule("attention.aggregate")
    hook = aggregate.register_forward_hook(lambda module, args, output: captured.append(args))
    y = block(x)[0]
    hook.remove()
    direction = torch.ones_like(y)
    leaves = [x, *block.parameters()]
    functions["block"] = lambda: torch.autograd.grad(block(x)[0], leaves, direction)
    x_in, outputs, values, placements, _ = captured[0]
    # in the block the outputs lie as the attention makes them; detached copies keep that layout
    x_in, values = x_in.detach().requires_grad_(), values.detach()
    outputs = [output.detach().requires_grad_() for output in outputs]
    mixed = torch.ones(1, N, config.num_heads, config.head_dim)

    def run(module: nn.Module, *args: Any) -> Callable[[], Any]:
        inputs = [x_in, *outputs, *module.parameters()]

        def call() -> None:
            result = module(x_in, outputs, *args)
            torch.autograd.grad(result[0] if isinstance(result, tuple) else result, inputs, mixed)

        return call

    for name, strategy in (("convex", "convex"), ("nash", "nash"), ("softmax gate, our kernel", "gate")):
        config.aggregation = AggregationConfig(strategy=strategy)  # type: ignore[arg-type]
        module = Aggregator(config)
        initialize(module, config)
        functions[name] = run(module, values, placements)
    functions["softmax gate, plain torch"] = run(PlainGate(config))
    return best_times(functions, seconds=4.0, most=12)
