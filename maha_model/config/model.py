"""The configuration of a model, and the shipped sizes."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from maha_model.config.aggregation import AggregationConfig
from maha_model.config.checks import ConfigError, build, check_choices, check_finite


@dataclass(kw_only=True)
class ModelConfig:
    """A decoder-only (or, with `causal: false`, an encoder) transformer whose attention is MAHA or a baseline."""

    vocab_size: int = 0
    """Number of token ids; 0 leaves it to the trainer, which takes the data set's. A model needs it set."""
    context_length: int = 4096
    """Longest sequence the model is meant for, in tokens."""
    d_model: int = 768
    """Width D of the residual stream."""
    num_layers: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Number H of heads; must divide `d_model`."""
    d_ff: int = 2048
    """Hidden width of the feed-forward network."""
    attention: Literal["maha", "standard", "longformer"] = "maha"
    """The attention module: MAHA, full causal attention, or a sliding window of `span` tokens (Longformer)."""
    num_scales: int = 3
    """L, number of scales, the full resolution included (1 to 8)."""
    ratio: int = 4
    """r, downsampling from one scale to the next."""
    span: int | Literal["full"] = 128
    """W, how many tokens of its own scale a query attends to, the last its own; `full` is quadratic."""
    query: Literal["coarse", "fine"] = "coarse"
    """Queries at a coarse scale: one a coarse token, their output upsampled (the paper), or one a position."""
    positions: Literal["scale", "token"] = "scale"
    """What rotary positions count: tokens of each scale's own (the paper), or tokens of the text, a coarse one standing
    in the middle of what it covers."""
    descent: int = 0
    """k > 0: every position attends to the whole of the coarsest scale and, at each finer one, to the children of the k
    tokens chosen at the scale above, besides the newest W: exact tokens at any distance. 0: spans alone. Needs
    `query: fine`, `positions: token` and shared projections."""
    coarse_span: int | None = 16
    """W of the coarser scales with a descent: their newest tokens that are seen besides the children of chosen ones.
    null: `span`. Compare: eval/tasks/code_1k.yaml."""
    choice: Literal["scores", "index"] = "scores"
    """How a descent chooses: by the `scores` of the coarser scales, from the coarsest down, or by an `index`: short
    keys of all tokens, learned from the layer's own attention, find k blocks of r tokens for the finest scale, and a
    coarser one sees its newest `coarse_span` tokens alone. Compare: eval/tasks/code_far_4k.yaml."""
    index_dim: int = 16
    """Width of an index's queries and keys, of which a layer has one for every group of heads. Every query is compared
    with all tokens: index_dim / d_model of the products of full attention, a group."""
    descent_groups: int | None = None
    """Groups of heads that choose together; must divide `num_heads`. null: every head chooses alone, by an index all
    together."""
    key_summary: Literal["taps", "bounds"] = "bounds"
    """What the key of a coarse token is with a descent by scores: `bounds`, the greatest and the least entries of the
    keys that it covers, so that its score is never below theirs; `taps`, that of its context, which the decomposition
    makes, half as wide; so it is with an index. Bounds find single tokens among more and are learned sooner. Compare:
    eval/tasks/summary.yaml."""
    chosen_share: Literal["relative", "absolute"] = "relative"
    """With `taps`, what is added, times a learned number, to the scores of a chosen token's children: the logarithm of
    its share of attention among the chosen, `relative` to an even share, or `absolute` (earlier models), which holds
    log k against everything that is found and is learned later the more is chosen."""
    projections: Literal["shared", "separate"] = "shared"
    """Queries and keys of the scales: `shared`, one full-rank matrix of which every coarser scale has its own learned
    gain for every channel; `separate`, a matrix for each scale (the paper)."""
    qk_dim: int | None = None
    """Width of a head's queries and keys at every scale. null: that of its values if the projections are shared, else
    d_model/(num_heads*num_scales), rounded up to even. Either way all scales together have the parameters of one
    standard attention layer."""
    values: Literal["shared", "separate"] = "shared"
    """`shared`: one value projection, its output decomposed as the input is (the paper); `separate`: one a scale."""
    decomposition: Literal["conv", "max_pool"] = "conv"
    """How a scale is made from the finer one: causal depthwise strided convolution, or causal max pooling."""
    dilation: int = 0
    """Dilation of the causal convolution over 3 tokens that gives local context before attention (the paper's hybrid
    block, eq. 11), with `local_activation: none` before the baselines' too; 0 leaves it out. Compare:
    eval/studies/pg19_mini.yaml, dilated_convolution."""
    local_activation: Literal["relu", "none"] = "relu"
    """After that convolution: `relu` (the paper) or `none`, a plain convolution."""
    gating: bool = False
    """Blend every scale with the coarser one through a learned per-head gate (the paper's hybrid block). Compare:
    eval/studies/pg19_mini.yaml, cross_scale_gating."""
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    """How scales are fused."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Pre-normalisation of every sub-layer."""
    ffn: Literal["swiglu", "gelu"] = "swiglu"
    """Feed-forward network: gated (three matrices) or plain (two)."""
    dropout: float = 0.0
    """Dropout of embeddings and of every sub-layer's output."""
    causal: bool = True
    """False: the paper's bidirectional encoder."""
    rope_base: float = 10000.0
    """Base of the rotary position embedding."""
    recency: float | None = None
    """Queries and keys have biases that make every head start with a preference for near tokens: a score that falls
    from this height (on average over the heads, of which no two are alike) at distance 0 towards 0 at far ones. 0: no
    biases. null: 8 with `maha`, 0 with the baselines. Compare: eval/studies/pg19_mini.yaml, no_recency."""
    init_std: float = 0.02
    """Standard deviation of the initial weights; projections back to the residual stream are divided by
    sqrt(2 * num_layers)."""
    base_width: int | None = None
    """Width of a narrower model, with heads as wide as here, whose best learning rate this one is to share (muP):
    `init_std` and the optimiser's rate are that model's, from which hidden matrices start and learn less by the ratio
    of the widths, and logits are divided by it. null: none of it."""

    def __post_init__(self) -> None:
        if isinstance(self.aggregation, dict):
            self.aggregation = build(AggregationConfig, self.aggregation, "aggregation.")
        check_choices(self)
        check_finite(self)
        for name in ("context_length", "d_model", "num_layers", "num_heads", "d_ff"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"num_heads {self.num_heads} does not divide d_model {self.d_model}; choose heads that divide the width"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"d_model/num_heads is {self.head_dim}; rotary positions need an even head width, choose fewer heads"
            )
        if self.base_width is not None and self.base_width < 1:
            raise ConfigError(f"base_width is {self.base_width}; it must be at least 1, or null for no width transfer")
        for name in ("rope_base", "init_std"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.span != "full" and (not isinstance(self.span, int) or self.span < 1):
            raise ConfigError(f"span is {self.span!r}; it must be a positive number of tokens or 'full'")
        if self.recency is not None and self.recency < 0:
            raise ConfigError(f"recency is {self.recency}; it must be positive, or 0 for none")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.dilation < 0:
            raise ConfigError(f"dilation is {self.dilation}; it must be 0 (no local convolution) or positive")
        if self.attention == "maha":
            self._check_scales()
            self._check_descent()

    def _check_scales(self) -> None:
        if not 1 <= self.num_scales <= 8:
            raise ConfigError(f"num_scales is {self.num_scales}; the solver handles 1 to 8 scales")
        if self.ratio < 2:
            raise ConfigError(f"ratio is {self.ratio}; a coarser scale needs a ratio of at least 2")
        if self.context_length < self.ratio ** (self.num_scales - 1):
            raise ConfigError(
                f"num_scales {self.num_scales} and ratio {self.ratio} leave no coarse token in a context of "
                f"{self.context_length}; use fewer scales, a smaller ratio or a context of at least "
                f"{self.ratio ** (self.num_scales - 1)}"
            )
        if self.qk_dim is not None and (self.qk_dim < 2 or self.qk_dim % 2):
            raise ConfigError(f"qk_dim is {self.qk_dim}; rotary positions need an even number of at least 2")
        costs = self.aggregation.costs
        if costs is not None and len(costs) != self.num_scales:
            raise ConfigError(f"aggregation.costs has {len(costs)} entries for {self.num_scales} scales")

    def _check_descent(self) -> None:
        if self.descent < 0:
            raise ConfigError(f"descent is {self.descent}; it must be 0 (none) or how many tokens a scale chooses")
        if not self.descent:
            if self.aggregation.strategy == "joint":
                raise ConfigError("aggregation.strategy 'joint' needs descent; set descent to at least 1")
            if self.choice == "index":
                raise ConfigError("choice 'index' needs descent; set descent to at least 1")
            return
        needs = {"query": "fine", "positions": "token", "projections": "shared", "causal": True}
        for name, value in needs.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"descent needs {name} {value}, not {getattr(self, name)}; change it or set descent 0"
                )
        if self.span == "full":
            raise ConfigError("descent needs a finite span, not 'full'; give a number of tokens or set descent 0")
        for name, span in zip(("span", "coarse_span"), self.spans, strict=True):
            if span < self.ratio - 1:  # else the next scale is not seen whole before it
                raise ConfigError(
                    f"descent needs a {name} of at least ratio - 1, not {span}; give {self.ratio - 1} or more"
                )
        if self.bounded and self.gating:
            raise ConfigError(
                "gating changes coarse contexts, from which key_summary bounds makes no keys; unset it or give taps"
            )
        if not isinstance(self.index_dim, int) or self.index_dim < 1:
            raise ConfigError(f"index_dim is {self.index_dim}; it must be at least 1")
        groups = self.descent_groups
        if groups is not None and (groups < 1 or self.num_heads % groups):
            raise ConfigError(f"descent_groups is {groups}; it must divide num_heads {self.num_heads}")

    @property
    def context_unit(self) -> int:
        """Tokens that a part of a window is a multiple of where processes share it: one token of the coarsest scale."""
        return self.ratio ** (self.num_scales - 1) if self.attention == "maha" else 1

    @property
    def head_dim(self) -> int:
        """Width d of a head's values."""
        return self.d_model // self.num_heads

    @property
    def width_ratio(self) -> float:
        """By how much the model is wider than that of `base_width`; 1 without one."""
        return 1.0 if self.base_width is None else self.d_model / self.base_width

    @property
    def scale_qk_dim(self) -> int:
        """Width of a head's queries and keys at every scale of MAHA."""
        if self.qk_dim is not None:
            return self.qk_dim
        if self.projections == "shared":
            return self.head_dim
        return max(2, 2 * -(-self.head_dim // (2 * self.num_scales)))

    @property
    def spans(self) -> tuple[int, int]:
        """W of the finest scale and of every coarser one with a descent."""
        assert self.span != "full"
        return self.span, self.span if self.coarse_span is None else self.coarse_span

    @property
    def indexed(self) -> bool:
        """Whether an index chooses what the finest scale sees of far tokens."""
        return self.descent > 0 and self.choice == "index"

    @property
    def choosing_groups(self) -> int:
        """Groups of heads of a descent with one choice each."""
        return self.descent_groups or (1 if self.choice == "index" else self.num_heads)

    @property
    def bounded(self) -> bool:
        """Whether keys of coarse tokens are bounds of the keys that they cover."""
        return self.descent > 0 and self.choice == "scores" and self.key_summary == "bounds"

    @property
    def recency_height(self) -> float:
        """Score of the preference for near tokens at distance 0, before training, averaged over the heads."""
        if self.recency is None:
            return 8.0 if self.attention == "maha" else 0.0
        return self.recency

    @property
    def head_start(self) -> float:
        """Utility of the finest scale before training."""
        aggregation = self.aggregation
        if aggregation.head_start is not None:
            return aggregation.head_start
        if self.descent and aggregation.strategy in ("convex", "nash", "best_response"):
            # three quarters of where outputs at right angles leave the other scales nothing
            return 0.75 * (aggregation.redundancy + aggregation.ridge)
        return 3.0 if aggregation.strategy == "convex" else 0.0

    @classmethod
    def named(cls, name: str, **overrides: Any) -> "ModelConfig":
        """One of the shipped sizes (a key of `NAMED_SIZES`) with some fields replaced."""
        if name not in NAMED_SIZES:
            raise ConfigError(f"no model size is called {name!r}; choose one of {', '.join(NAMED_SIZES)}")
        return cls.from_dict({**NAMED_SIZES[name], **overrides})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`. Raises ConfigError that names an unknown key and the nearest valid one."""
        return build(cls, values, "")

    @classmethod
    def from_saved(cls, values: dict[str, Any]) -> "ModelConfig":
        """As `from_dict`, of a model that was trained: what was no choice then is what it was, whatever is best now."""
        return cls.from_dict(cls.complete(values))

    @staticmethod
    def complete(values: dict[str, Any]) -> dict[str, Any]:
        """A saved configuration with the fields that it lacks and whose default is another than models had before."""
        return {"key_summary": "taps", "coarse_span": None, "chosen_share": "absolute", **values}

    def effective(self) -> dict[str, Any]:
        """`to_dict` without the options of a descent that make no difference."""
        options = {"key_summary", "coarse_span", "descent_groups", "chosen_share", "choice", "index_dim"}
        if self.attention == "maha" and self.descent:
            options = {"key_summary", "chosen_share"} if self.indexed else {"index_dim"}
            options |= {"chosen_share"} if self.bounded else set()
        return {name: value for name, value in self.to_dict().items() if name not in options}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)


NAMED_SIZES: dict[str, dict[str, Any]] = {
    "sample": {"context_length": 512, "d_model": 128, "num_layers": 4, "num_heads": 4, "d_ff": 352, "span": 64},
    "paper": {"context_length": 4096, "d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048, "span": 128},
    "150m": {"context_length": 4096, "d_model": 768, "num_layers": 18, "num_heads": 12, "d_ff": 2048, "span": 128},
    "400m": {"context_length": 4096, "d_model": 1280, "num_layers": 18, "num_heads": 10, "d_ff": 3456, "span": 256},
    "1b": {"context_length": 4096, "d_model": 2048, "num_layers": 20, "num_heads": 16, "d_ff": 5504, "span": 256},
    "7b": {"context_length": 4096, "d_model": 4096, "num_layers": 32, "num_heads": 32, "d_ff": 11008, "span": 256},
}
"""Fields of the sizes for `ModelConfig.named`."""
