"""The transformer shell: embeddings, blocks, final norm, language-model head. Only the attention module differs."""

from contextlib import nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maha_model.aggregation import Aggregator
from maha_model.attention import Attention, MAHAAttention, build_attention
from maha_model.config import ConfigError, ModelConfig
from maha_model.documents import Documents
from maha_model.initialization import Gather, initialize
from maha_model.kernels.cross_entropy import linear_cross_entropy
from maha_model.kernels.index import Rows
from maha_model.layers import Embedding, FeedForward, build_norm
from maha_model.parallel import ContextSplit, mean_over_parts

CheckpointPolicy = Literal["none", "block", "selective"]
IGNORED_TARGET = -100


class Block(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = build_norm(config), build_norm(config)
        self.attention, self.ffn = build_attention(config), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BND: Tensor, documents: Documents | None = None, rows: Rows | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) -> (B, N, D), the attention's aux scalar or None; none with `documents`.

        `rows` tells what of the sequences is padding behind their tokens: nothing learns from it.
        """
        mixed_BND, aux = self._attend(self.attention_norm(x_BND), documents, rows)
        x_BND = x_BND + self.dropout(mixed_BND)
        return x_BND + self.dropout(self.ffn(self.ffn_norm(x_BND))), aux

    def _attend(self, x_BND: Tensor, documents: Documents | None, rows: Rows | None) -> tuple[Tensor, Tensor | None]:
        if documents is None:
            return self.attention(x_BND, rows)
        return documents.map_apart(lambda x_RMD, rows: self.attention(x_RMD, rows)[0], x_BND), None


class Transformer(nn.Module):
    """Token ids (B, N) -> hidden states (B, N, D) after the final norm; the sum of the blocks' aux scalars or None."""

    def __init__(self, config: ModelConfig, gather: Gather = nullcontext) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ConfigError(f"vocab_size is {config.vocab_size}; a model needs the number of token ids")
        self.config = config
        self.embedding: nn.Embedding = Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = build_norm(config)
        self.activation_checkpointing = "none"
        self.reports_aux = False
        self.context_parallel = None
        initialize(self, config, gather)

    @property
    def activation_checkpointing(self) -> CheckpointPolicy:
        """What is recomputed in the backward pass: `none`, every `block`, or `selective` (attention, aggregation)."""
        return self._policy

    @activation_checkpointing.setter
    def activation_checkpointing(self, policy: CheckpointPolicy) -> None:
        if policy not in ("none", "block", "selective"):
            raise ConfigError(f"activation_checkpointing is {policy!r}; choose one of none, block, selective")
        self._policy: CheckpointPolicy = policy
        for module in self.modules():
            if isinstance(module, Attention):
                module.recompute = policy == "selective"

    @property
    def reports_aux(self) -> bool:
        """Whether the price of the aggregations' weights is computed; training does not use it. False at first."""
        return self._reports_aux

    @reports_aux.setter
    def reports_aux(self, reports: bool) -> None:
        self._reports_aux = reports
        for module in self.modules():
            if isinstance(module, Aggregator):
                module.reports_aux = reports

    @property
    def context_parallel(self) -> ContextSplit | None:
        """The part of every window that this process has, where several share one; None, at first: the whole."""
        return self._split

    @context_parallel.setter
    def context_parallel(self, split: ContextSplit | None) -> None:
        self._split = split
        for module in self.modules():
            if isinstance(module, Attention):
                module.split = split

    def forward(self, input_ids: Tensor, documents: Documents | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, N) int64 -> (B, N, D), aux: a scalar if `reports_aux`, else None.

        With `documents` each one has the hidden states that it has alone.

        Raises:
            ConfigError: if there are documents of another batch, or with what cannot set them apart.
        """
        if documents is not None:
            self._check(documents, input_ids)
        x_BND = self.dropout(self.embedding(input_ids))
        total_aux = x_BND.new_zeros(()) if self.reports_aux else None
        for block in self.blocks:
            if self._policy == "block" and torch.is_grad_enabled():
                # without dropout nothing is random: no state of generators, which a GPU's are not to be read for
                keeps = self.config.dropout > 0
                x_BND, aux = checkpoint(block, x_BND, documents, use_reentrant=False, preserve_rng_state=keeps)
            else:
                x_BND, aux = block(x_BND, documents)
            if total_aux is not None and aux is not None:
                total_aux = total_aux + aux
        return self.norm(x_BND), total_aux

    def _check(self, documents: Documents, input_ids: Tensor) -> None:
        if len(documents.places) != input_ids.numel():
            raise ConfigError(
                f"documents of {len(documents.places)} tokens are given with {input_ids.numel()} token ids; give "
                "those of this batch"
            )
        reasons = {
            "causal: false": not self.config.causal,
            "context_parallel": self._split is not None,
            "reports_aux": self._reports_aux,
        }
        if found := [name for name, there in reasons.items() if there]:
            raise ConfigError(f"documents cannot be set apart with {found[0]}; leave one of them out")


class CausalLMOutput(NamedTuple):
    """Result of `CausalLM`: logits (B, N, V), or with targets the mean negative log-likelihood in nats; aux or None."""

    logits: Tensor | None
    loss: Tensor | None
    aux_loss: Tensor | None


class Head(nn.Linear):
    """Logits of all tokens, or the loss without them; in one module, whose weight ZeRO 3 gathers before it runs.

    Logits are divided by `divisor`, the width ratio of muP (arXiv 2203.03466, table 8).
    """

    def __init__(self, d_model: int, vocab_size: int, divisor: float = 1.0) -> None:
        super().__init__(d_model, vocab_size, bias=False)
        self.divisor = divisor

    def forward(self, hidden_BND: Tensor, targets_BN: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, V), or with targets (B, N) a scalar; see `kernels.cross_entropy`."""
        if self.divisor != 1:
            hidden_BND = hidden_BND / self.divisor
        if targets_BN is None:
            return super().forward(hidden_BND)
        return linear_cross_entropy(hidden_BND.flatten(0, 1), self.weight, targets_BN.flatten(), IGNORED_TARGET)


class CausalLM(nn.Module):
    """A causal language model with tied embeddings over any of the attention modules.

    `gather` is for weights that are sharded over processes while the model is made; see `initialize`.
    """

    def __init__(self, config: ModelConfig, gather: Gather = nullcontext) -> None:
        if not config.causal:
            raise ConfigError("causal is false; a language model must be causal, use MAHATransformer for an encoder")
        super().__init__()
        self.config = config
        self.transformer = Transformer(config, gather)
        self.lm_head = Head(config.d_model, config.vocab_size, config.width_ratio)
        self.lm_head.weight = self.transformer.embedding.weight

    @property
    def activation_checkpointing(self) -> CheckpointPolicy:
        """See `Transformer.activation_checkpointing`."""
        return self.transformer.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, policy: CheckpointPolicy) -> None:
        self.transformer.activation_checkpointing = policy

    @property
    def context_parallel(self) -> ContextSplit | None:
        """See `Transformer.context_parallel`."""
        return self.transformer.context_parallel

    @context_parallel.setter
    def context_parallel(self, split: ContextSplit | None) -> None:
        self.transformer.context_parallel = split

    def forward(
        self, input_ids: Tensor, targets: Tensor | None = None, documents: Documents | None = None
    ) -> CausalLMOutput:
        """Predict the next token everywhere.

        Args:
            input_ids: (B, N) int64.
            targets: (B, N) int64, already aligned: targets[:, t] follows input_ids[:, t]; -100 is not scored. With
                targets the logits are not kept: (B, N, V) numbers would outweigh whole layers.
            documents: of a packed batch, each of which is to have the logits that it has alone; see `Documents`.

        The aux scalar (the aggregation's sparsity term, if `transformer.reports_aux`) is not part of the loss: the
        sparsity already acts inside the problem whose solution the weights are.

        With `context_parallel` ids and targets are those of this process's part. The loss is that of the whole window,
        on every process that shares it, its gradient as `mean_over_parts` has it; aux is the part's.
        """
        hidden_BND, aux = self.transformer(input_ids, documents)
        if targets is not None:
            loss, split = self.lm_head(hidden_BND, targets), self.context_parallel
            if split is not None:
                loss = mean_over_parts(loss, (targets != IGNORED_TARGET).sum(), split)
            return CausalLMOutput(None, loss, aux)
        return CausalLMOutput(self.lm_head(hidden_BND), None, aux)

    def scale_lessons(self, scale: float) -> None:
        """Tell the indices of all layers what the loss is multiplied by before its backward pass; 1 at first.

        They learn beside the loss: 1 / A where the gradients of A micro-batches are added up.
        """
        for module in self.modules():
            if isinstance(module, MAHAAttention):
                module.lesson_scale = scale

    def num_parameters(self) -> int:
        """Trainable parameters, the tied embedding counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
