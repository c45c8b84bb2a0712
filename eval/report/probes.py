"""The costlier measurements of a model, made with its first run on a sample of the text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from data_pipeline import Tokenizer, UserError, read_documents
from eval.report.model_runs import ModelRuns
from eval.report.scale_use import ScaleUse, scale_use
from eval.report.scope import Scope
from eval.scoring.positions import (
    ContextPoint,
    OctaveBins,
    Target,
    by_context,
    by_window_position,
    choose_targets,
    context_lengths,
)
from eval.scoring.unigram import token_counts
from maha_model import CausalLM, ScaleAttention, attention_probabilities
from pretrain.checkpoint import load_model

ATTENTION_SHOWN = 192
"""Tokens of the plots of attention, which are quadratic."""
ATTENTION_MEASURED = 1024
"""Tokens over which the mean distances of attention are taken."""


@dataclass(frozen=True)
class LayerAttention:
    """Attention of one layer by scale, finest first."""

    distances: list[float]
    """Mean distance in tokens between query and key, over up to ATTENTION_MEASURED tokens."""
    shown: list[ScaleAttention]
    """Probabilities over up to ATTENTION_SHOWN tokens."""


@dataclass
class Probe:
    """Measurements of one model's first run, each empty unless its part is in the scope."""

    context: list[ContextPoint] = field(default_factory=list)
    window: OctaveBins | None = None
    scales: ScaleUse | None = None
    attention: list[LayerAttention] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "context": [point._asdict() for point in self.context],
            "window": self.window and self.window.to_dict(),
            "scales": self.scales and self.scales.to_dict(),
            "attention_distances": [layer.distances for layer in self.attention],
        }


def probe_models(models: Sequence[ModelRuns], scope: Scope) -> dict[str, Probe]:
    """The probe of each model's first run, by label, all on the same targets; none where no document has a target.

    Raises:
        UserError: if a model was trained with another tokenizer than the data's.
    """
    manifest = scope.manifest
    documents = list(read_documents(manifest, scope.split))
    # a book shorter than the longest context has no target, and a split of such books none for that context
    longest = min(
        max(runs.config.context_length for runs in models), max(len(document.tokens) - 1 for document in documents)
    )
    if longest < 1:
        return {}
    targets = choose_targets(documents, longest, scope.samples)
    whole = choose_targets(documents, longest, scope.windows)
    counts = token_counts(manifest) if "scales" in scope.parts else None
    tokenizer = Tokenizer(manifest.tokenizer_path)
    probes = {}
    for runs in models:
        if runs.first.info.tokenizer_sha256 != manifest.tokenizer_sha256:
            raise UserError(f"{runs.first.folder} was trained with another tokenizer than that of {manifest.folder}")
        model, probe = load_model(runs.first.checkpoint, scope.device), Probe()
        context = min(longest, runs.config.context_length)
        if "context" in scope.parts:
            probe.context = by_context(model, targets, context_lengths(context), scope.batch_size)
            probe.window = by_window_position(model, targets, context, scope.batch_size)
        if counts is not None and runs.config.attention == "maha":
            probe.scales = scale_use(model, whole, context, tokenizer, counts)
        if "attention" in scope.parts:
            probe.attention = _attention(model, whole[len(whole) // 2], context)
        probes[runs.label] = probe
    return probes


def _attention(model: CausalLM, target: Target, context: int) -> list[LayerAttention]:
    device = next(model.parameters()).device

    def layers(length: int) -> list[list[ScaleAttention]]:
        ids = target.tokens[target.stop - length : target.stop].astype("int64")
        return attention_probabilities(model, torch.from_numpy(ids)[None].to(device))

    measured, shown = layers(min(context, ATTENTION_MEASURED)), layers(min(context, ATTENTION_SHOWN))
    return [
        LayerAttention([scale.mean_distance for scale in far], near) for far, near in zip(measured, shown, strict=True)
    ]
