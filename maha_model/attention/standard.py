"""The baselines: the standard transformer's attention and Longformer's sliding window."""

from torch import Tensor, nn

from maha_model.attention.base import Attention
from maha_model.attention.last_queries import attend_from_last
from maha_model.config import ModelConfig
from maha_model.kernels.index import Rows
from maha_model.kernels.rotary import apply_rotary_to_all
from maha_model.kernels.span import span_attention
from maha_model.layers import prefer_near_
from maha_model.parallel import ALL, extended


class StandardAttention(Attention):
    """Multi-head attention with rotary positions over all earlier ones (`standard`) or a window (`longformer`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=config.recency_height > 0)
        self.span = "full" if config.attention == "standard" else config.span

    def initialize_parameters(self) -> None:
        """Start with a preference for near tokens, if the configuration has one."""
        if self.qkv.bias is not None:
            for bias in self.qkv.bias.detach().chunk(3)[:2]:
                prefer_near_(bias, self.config.num_heads, self.config.recency_height)

    def forward(self, x_BND: Tensor, rows: Rows | None = None) -> tuple[Tensor, None]:
        """(B, N, D) -> (B, N, D), None."""
        mixed_BND = self.maybe_recompute(self.attend, self.qkv(self.local_context(x_BND)))
        return self.out(mixed_BND), None

    def attend(self, qkv: Tensor) -> Tensor:
        """Projected queries, keys and values (B, N, 3 D) -> (B, N, D) before the output projection."""
        return self.attend_rotated(*self.rotated(qkv))

    def rotated(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3 D) -> queries and keys (B, H, N, d), rotated, and values; keys and values with those before a part.

        Of earlier parts there are those that the part's queries attend to.
        """
        if self.split is None:
            q, k, v = qkv.unflatten(-1, (3, self.config.num_heads, -1)).permute(2, 0, 3, 1, 4)
            q, k = apply_rotary_to_all([q, k], [(0.0, 1.0)] * 2, self.config.rope_base)
            return q, k, v.contiguous()  # or it would keep the whole of qkv, thrice its size, for the backward pass
        width = ALL if self.span == "full" else self.span - 1
        q_BMD, kv_BME = qkv.split([self.config.d_model, 2 * self.config.d_model], -1)
        (kv_BnE,) = extended([kv_BME], [width], [1], self.split)
        q = q_BMD.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
        k, v = kv_BnE.unflatten(-1, (2, self.config.num_heads, -1)).permute(2, 0, 3, 1, 4)
        start = self.split.start
        lines = [(float(start), 1.0), (float(start + q.shape[2] - k.shape[2]), 1.0)]
        q, k = apply_rotary_to_all([q, k], lines, self.config.rope_base)
        return q, k, v.contiguous()

    def attend_rotated(self, q_BHMd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor) -> Tensor:
        """What `rotated` made -> (B, N, D) before the output projection."""
        if self.split is None:
            mixed_BHMd = span_attention(q_BHMd, k_BHnd, v_BHnd, self.span, self.config.causal)
        else:
            mixed_BHMd = attend_from_last(q_BHMd, k_BHnd, v_BHnd, self.span)
        return mixed_BHMd.transpose(1, 2).flatten(2)
