"""The public API of the paper's implementation (section 5.1), on our causal, exact model.

`MAHATransformer` is a stack of blocks without a head; a language model, and the baselines of the paper, are
`CausalLM(ModelConfig(attention="maha" | "standard" | "longformer"))`.
"""

import torch
from torch import Tensor, nn

from maha_model.attention import MAHAAttention
from maha_model.config import AggregationConfig, ModelConfig
from maha_model.initialization import initialize
from maha_model.transformer import Block, Transformer


class MAHABlock(nn.Module):
    """A drop-in transformer block: `output, aux_loss = block(x)`, x and output (batch, length, d_model).

    Signature and return values are those of the paper's implementation; `causal=False` gives its bidirectional encoder.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        dropout: float = 0.1,
        num_scales: int = 4,
        compression_ratio: int = 2,
        aggregation_strategy: str = "convex",
        causal: bool = True,
    ) -> None:
        super().__init__()
        config = _config(
            vocab_size=1, d_model=d_model, num_heads=num_heads, d_ff=d_ff, dropout=dropout, num_scales=num_scales,
            ratio=compression_ratio, strategy=aggregation_strategy, causal=causal, num_layers=1,
        )  # fmt: skip
        self.causal = causal
        self.block = Block(config)
        assert isinstance(self.block.attention, MAHAAttention)
        self.block.attention.aggregate.reports_aux = True
        initialize(self, config)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(batch, length, d_model) -> same shape, aux loss (scalar). See `MAHATransformer.forward` for `mask`."""
        _check_mask(mask, x.shape[:2], self.causal)
        output, aux = self.block(x)
        return output, aux


class MAHATransformer(nn.Module):
    """A stack of MAHA blocks: `output, aux_loss = model(ids)`, output (batch, length, d_model).

    Signature and return values are those of the paper's implementation; `causal=False` gives its bidirectional encoder.
    """

    def __init__(
        self,
        vocab_size: int,
        max_len: int = 512,
        d_model: int = 768,
        num_heads: int = 12,
        num_layers: int = 12,
        d_ff: int = 3072,
        num_scales: int = 4,
        aggregation_strategy: str = "convex",
        dropout: float = 0.1,
        causal: bool = True,
    ) -> None:
        super().__init__()
        config = _config(
            vocab_size=vocab_size, context_length=max_len, d_model=d_model, num_heads=num_heads, num_layers=num_layers,
            d_ff=d_ff, num_scales=num_scales, ratio=2, strategy=aggregation_strategy, dropout=dropout, causal=causal,
        )  # fmt: skip
        self.transformer = Transformer(config)
        self.transformer.reports_aux = True

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids (batch, length) int64 -> hidden states (batch, length, d_model), aux loss (scalar).

        Args:
            x: token ids.
            mask: (batch, length), true where a token is real. Padding on the right of a causal model changes no real
                position and is accepted; any other mask raises ValueError rather than being ignored.
        """
        _check_mask(mask, x.shape, self.transformer.config.causal)
        return self.transformer(x)


def _config(strategy: str, **fields: object) -> ModelConfig:
    values = {"norm": "layernorm", "ffn": "gelu", "aggregation": AggregationConfig(strategy=strategy), **fields}  # type: ignore[arg-type]
    return ModelConfig.from_dict(values)


def _check_mask(mask: Tensor | None, shape: torch.Size, causal: bool) -> None:
    if mask is None:
        return
    if mask.shape != shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected (batch, length) = {tuple(shape)}")
    real = mask.bool()
    padded_right = bool((real[:, :-1] | ~real[:, 1:]).all())
    if not bool(real.all()) and not (causal and padded_right):
        raise ValueError("only padding on the right of a causal model can be masked; trim or pack the sequences")
