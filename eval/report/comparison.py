"""The comparison of several runs: what was measured, the paper's table beside it, and what must be said of both.

A page has parts (PARTS). The table, and what else follows from scoring every document, uses all runs; what is costlier
uses the first run of each headline group and a sample of the text (`Probe`).
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from data_pipeline import Manifest, Tokenizer, UserError, read_documents
from eval.ppl import evaluate_once
from eval.report.cost import Cost, measure_costs
from eval.report.environment import environment
from eval.report.runs import Group, Run, Spread, group_runs, headline_groups, read_run
from eval.report.scale_use import ScaleUse, scale_use
from eval.scoring.perplexity import Score, token_counts, unigram_score
from eval.scoring.positions import (
    ContextPoint,
    OctaveBins,
    Target,
    by_context,
    by_window_position,
    choose_targets,
    context_lengths,
)
from maha_model import CausalLM, ScaleAttention, attention_probabilities
from pretrain.checkpoint import load_model

PARTS = ("table", "losses", "context", "scales", "attention", "cost")
ATTENTION_SHOWN = 192
"""Tokens of the pictures of attention, which are quadratic."""
ATTENTION_MEASURED = 1024


class PaperRow(NamedTuple):
    """One row of the paper's Table I (arXiv 2512.14925)."""

    model: str
    complexity: str
    perplexity: float
    memory_gb: float


PAPER = {
    "standard": PaperRow("Standard Transformer", "O(N²)", 24.3, 15.2),
    "longformer": PaperRow("Longformer", "O(N)", 23.8, 9.1),
    "maha": PaperRow("MAHA", "sub-quadratic", 23.1, 6.7),
}


def complexity(group: Group) -> str:
    """Score entries of a sequence as our implementations compute them."""
    quadratic = group.config.attention == "standard" or group.config.span == "full"
    return "O(N²)" if quadratic else "O(N·W)"


@dataclass(frozen=True)
class Scope:
    """What is measured, on what and with how much of it."""

    manifest: Manifest
    split: str = "test"
    parts: Collection[str] = PARTS
    stride: int | None = None
    batch_size: int = 8
    device: str = "cpu"
    samples: int = 64
    """Places of the text at which every context length is tried."""
    windows: int = 16
    """Whole contexts that the scale weights are averaged over."""
    longest: int = 8192
    """Tokens up to which cost is measured."""


@dataclass(frozen=True)
class LayerAttention:
    """Where one layer looks, by scale, finest first."""

    distances: list[float]
    """Mean distance in tokens over a long passage."""
    shown: list[ScaleAttention]
    """Over a short one."""


@dataclass
class Probe:
    """The costlier measurements of one group's first run, each there if its part was asked for."""

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


@dataclass(frozen=True)
class Comparison:
    """Several runs on one split of one data set."""

    scope: Scope
    groups: list[Group]
    unigram: Score | None
    probes: dict[str, Probe]
    """By label, of the headline groups."""
    costs: dict[str, list[Cost]]
    """By label, of the headline groups."""
    memory: dict[str, list[dict[str, Any]]]
    """The tables of eval/memory.py's report, by name, if one was given."""
    machine: dict[str, Any]
    warnings: list[str]

    @property
    def headlines(self) -> list[Group]:
        """The first group of every architecture and strategy."""
        return headline_groups(self.groups)

    def base(self, group: Group) -> Group | None:
        """The standard Transformer to hold a group against: of the same context length if there is one."""
        standard = [other for other in self.groups if other.config.attention == "standard"]
        alike = [other for other in standard if other.config.context_length == group.config.context_length]
        return next(iter(alike or standard), None)

    def ratio_to_transformer(self, group: Group) -> Spread | None:
        """Word-level perplexity over the Transformer's: seed by seed where both have it, else over its mean."""
        base = self.base(group)
        if base is None:
            return None
        by_seed = {run.info.seed: run.evaluated().score.word_perplexity for run in base.runs}
        mean = base.spread("word_perplexity").mean
        perplexities = [(run.info.seed, run.evaluated().score.word_perplexity) for run in group.runs]
        return Spread(tuple(perplexity / by_seed.get(seed, mean) for seed, perplexity in perplexities))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: `models` has a row for each run, `groups` one for each model."""
        manifest = self.scope.manifest
        return {
            "source": manifest.request["source"], "data_fingerprint": manifest.fingerprint, "split": self.scope.split,
            "machine": self.machine,
            "models": [self._run_dict(group, run) for group in self.groups for run in group.runs],
            "groups": [self._group_dict(group) for group in self.groups],
            "unigram": self.unigram and self.unigram.to_dict(),
            "cost": {label: [cost._asdict() for cost in costs] for label, costs in self.costs.items()},
            "memory": self.memory,
            "paper": [row._asdict() for row in PAPER.values()],
            "warnings": self.warnings,
        }  # fmt: skip

    def _run_dict(self, group: Group, run: Run) -> dict[str, Any]:
        return {
            "run": run.name, "model": group.label, "seed": run.info.seed, "complexity": complexity(group),
            "peak_memory_bytes": run.peak_memory_bytes, **(run.evaluation.to_dict() if run.evaluation else {}),
        }  # fmt: skip

    def _group_dict(self, group: Group) -> dict[str, Any]:
        values: dict[str, Any] = {"model": group.label, "seeds": group.seeds, "config": group.config.to_dict()}
        if group.first.evaluation:
            figures = ("word_perplexity", "token_perplexity", "bits_per_byte")
            values |= {figure: group.spread(figure).to_dict() for figure in figures}
            ratio = self.ratio_to_transformer(group)
            values["ratio_to_transformer"] = ratio and ratio.to_dict()
        if group.label in self.probes:
            values["probe"] = self.probes[group.label].to_dict()
        return values


def compare(folders: list[str], scope: Scope, memory: dict[str, list[dict[str, Any]]]) -> Comparison:
    """Measure what `scope` asks for. Raises UserError if a run cannot be evaluated on this data."""
    if not folders:
        raise UserError("give at least one run")
    runs = [read_run(folder) for folder in folders]
    manifest, unigram = scope.manifest, None
    if "table" in scope.parts:
        unigram = unigram_score(manifest, scope.split)
        runs = [_evaluated(run, scope) for run in runs]
    groups = group_runs(runs)
    headlines = headline_groups(groups)
    costs = {}
    if "cost" in scope.parts:
        costs = measure_costs({group.label: group.config for group in headlines}, scope.longest, scope.device)
    probes = _probe(headlines, scope) if {"context", "scales", "attention"} & set(scope.parts) else {}
    return Comparison(scope, groups, unigram, probes, costs, memory, environment(scope.device), _warnings(groups))


def _evaluated(run: Run, scope: Scope) -> Run:
    evaluation = evaluate_once(
        run.checkpoint, scope.manifest, scope.split, stride=scope.stride, batch_size=scope.batch_size,
        device=scope.device,
    )  # fmt: skip
    return replace(run, evaluation=evaluation)


def _probe(headlines: list[Group], scope: Scope) -> dict[str, Probe]:
    """One model after the other, on the same targets."""
    manifest = scope.manifest
    documents = list(read_documents(manifest, scope.split))
    # a book shorter than the longest context has no target, and a split of such books none for that context
    longest = min(
        max(group.config.context_length for group in headlines), max(len(document.tokens) - 1 for document in documents)
    )
    targets = choose_targets(documents, longest, scope.samples)
    whole = choose_targets(documents, longest, scope.windows)
    counts = token_counts(manifest) if "scales" in scope.parts else None
    tokenizer = Tokenizer(manifest.tokenizer_path)
    probes = {}
    for group in headlines:
        if group.first.info.tokenizer_sha256 != manifest.tokenizer_sha256:
            raise UserError(f"{group.first.folder} was trained with another tokenizer than that of {manifest.folder}")
        model, probe = load_model(group.first.checkpoint, scope.device), Probe()
        context = min(longest, group.config.context_length)
        if "context" in scope.parts:
            probe.context = by_context(model, targets, context_lengths(context), scope.batch_size)
            probe.window = by_window_position(model, targets, context, scope.batch_size)
        if counts is not None and group.config.attention == "maha":
            probe.scales = scale_use(model, whole, context, tokenizer, counts)
        if "attention" in scope.parts:
            probe.attention = _attention(model, whole[len(whole) // 2], context)
        probes[group.label] = probe
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


def _warnings(groups: list[Group]) -> list[str]:
    """What makes the comparison unfair, if anything."""
    warnings = []
    evaluations = [run.evaluation for group in groups for run in group.runs if run.evaluation]
    sizes = [evaluation.parameters for evaluation in evaluations]
    if sizes and max(sizes) > 1.03 * min(sizes):
        warnings.append(f"parameters differ by {max(sizes) / min(sizes) - 1:.1%}")
    if len({run.info.tokens for group in groups for run in group.runs}) > 1:
        warnings.append("the models were trained on different numbers of tokens")
    if len({(evaluation.context, evaluation.stride) for evaluation in evaluations}) > 1:
        warnings.append("the models were evaluated with different contexts")
    if len({tuple(sorted(group.seeds)) for group in groups}) > 1:
        warnings.append("the models were not trained with the same seeds")
    return warnings
