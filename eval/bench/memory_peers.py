"""The models whose memory is compared: one configuration with the attention of each peer, fused and written out."""

from dataclasses import dataclass, replace
from typing import Any

from eval.bench.eager_attention import BandedAttention, EagerAttention, use_attention
from maha_model import CausalLM, ModelConfig
from maha_model.attention import StandardAttention

WINDOW = 512
"""Longformer's attention window: 256 tokens on each side."""


@dataclass(frozen=True)
class Peer:
    """A model of the table: what it changes in the configuration, and how its attention is computed."""

    label: str
    settings: dict[str, Any]
    eager: type[StandardAttention] | None = None

    def config(self, base: ModelConfig) -> ModelConfig:
        """The configuration of this model in the setting of `base`."""
        strategy = self.settings.get("strategy")
        if strategy is None:
            return replace(base, **self.settings)
        return replace(base, attention="maha", aggregation=replace(base.aggregation, strategy=strategy))

    def build(self, config: ModelConfig) -> CausalLM:
        """The model of such a configuration."""
        model = CausalLM(config)
        return model if self.eager is None else use_attention(model, self.eager)


PEERS = {
    "transformer_eager": Peer("Transformer, eager", {"attention": "standard"}, EagerAttention),
    "transformer_sdpa": Peer("Transformer, SDPA", {"attention": "standard"}),
    "longformer_banded": Peer(
        "Longformer, banded", {"attention": "longformer", "span": WINDOW // 2 + 1}, BandedAttention
    ),
    "longformer_fused": Peer("Longformer, fused", {"attention": "longformer"}),
    "maha_convex": Peer("MAHA, convex", {"strategy": "convex"}),
    "maha_nash": Peer("MAHA, Nash", {"strategy": "nash"}),
}
