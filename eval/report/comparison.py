"""The comparison of several runs: what was measured, and what makes it unfair.

The table, and what else follows from scoring every document, uses all runs; the costlier measurements use the first run
of each headline model and a sample of the text (`eval.report.probes`).
"""

from dataclasses import dataclass, replace
from typing import Any

from data_pipeline import UserError
from eval.paper import PAPER
from eval.report.cost import Cost, measure_costs
from eval.report.environment import environment
from eval.report.model_runs import ModelRuns, group_runs, headline_models
from eval.report.probes import Probe, probe_models
from eval.report.runs import Run, read_run
from eval.report.scope import Scope
from eval.scoring.evaluation import evaluate_once
from eval.scoring.perplexity import Score
from eval.scoring.sample import Sample
from eval.scoring.unigram import unigram_score
from eval.undefined import quotient


@dataclass(frozen=True)
class Comparison:
    """Several runs on one split of one data set."""

    scope: Scope
    models: list[ModelRuns]
    unigram: Score | None
    probes: dict[str, Probe]
    """By label, of the headline models."""
    costs: dict[str, list[Cost]]
    """By label, of the headline models."""
    memory: dict[str, list[dict[str, Any]]]
    """The tables of eval/memory.py's report, by name, if one was given."""
    machine: dict[str, Any]
    warnings: list[str]

    @property
    def headlines(self) -> list[ModelRuns]:
        """The first model of every architecture and strategy."""
        return headline_models(self.models)

    def base(self, model: ModelRuns) -> ModelRuns | None:
        """The standard Transformer that a model is compared with: of the same context length if there is one."""
        standard = [other for other in self.models if other.config.attention == "standard"]
        alike = [other for other in standard if other.config.context_length == model.config.context_length]
        return next(iter(alike or standard), None)

    def ratio_to_transformer(self, model: ModelRuns) -> Sample | None:
        """Word-level perplexity over the Transformer's: seed by seed where both have it, else over its mean."""
        base = self.base(model)
        if base is None:
            return None
        by_seed = {run.info.seed: run.evaluated().score.word_perplexity for run in base.runs}
        mean = base.sample("word_perplexity").mean
        perplexities = [(run.info.seed, run.evaluated().score.word_perplexity) for run in model.runs]
        return Sample(tuple(quotient(perplexity, by_seed.get(seed, mean)) for seed, perplexity in perplexities))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: `models` has a row for each run, `groups` one for each model."""
        manifest = self.scope.manifest
        return {
            "source": manifest.request["source"], "data_fingerprint": manifest.fingerprint, "split": self.scope.split,
            "machine": self.machine,
            "models": [_run_dict(model, run) for model in self.models for run in model.runs],
            "groups": [self._model_dict(model) for model in self.models],
            "unigram": self.unigram and self.unigram.to_dict(),
            "cost": {label: [cost._asdict() for cost in costs] for label, costs in self.costs.items()},
            "memory": self.memory,
            "paper": [row._asdict() for row in PAPER.values()],
            "warnings": self.warnings,
        }  # fmt: skip

    def _model_dict(self, model: ModelRuns) -> dict[str, Any]:
        values: dict[str, Any] = {"model": model.label, "seeds": model.seeds, "config": model.config.to_dict()}
        if model.first.evaluation:
            units = ("word_perplexity", "token_perplexity", "bits_per_byte")
            values |= {unit: model.sample(unit).to_dict() for unit in units}
            ratio = self.ratio_to_transformer(model)
            values["ratio_to_transformer"] = ratio and ratio.to_dict()
        if model.label in self.probes:
            values["probe"] = self.probes[model.label].to_dict()
        return values


def _run_dict(model: ModelRuns, run: Run) -> dict[str, Any]:
    return {
        "run": run.name, "model": model.label, "seed": run.info.seed, "complexity": model.complexity,
        "peak_memory_bytes": run.peak_memory_bytes, **(run.evaluation.to_dict() if run.evaluation else {}),
    }  # fmt: skip


def compare(folders: list[str], scope: Scope, memory: dict[str, list[dict[str, Any]]]) -> Comparison:
    """Measure the parts of `scope`. Raises UserError if a run cannot be evaluated on this data."""
    if not folders:
        raise UserError("give at least one run")
    runs = [read_run(folder) for folder in folders]
    manifest, unigram = scope.manifest, None
    if "table" in scope.parts:
        unigram = unigram_score(manifest, scope.split)
        runs = [_evaluated(run, scope) for run in runs]
    models = group_runs(runs)
    headlines = headline_models(models)
    costs = {}
    if "cost" in scope.parts:
        costs = measure_costs({model.label: model.config for model in headlines}, scope.longest, scope.device)
    probes: dict[str, Probe] = {}
    warnings = _warnings(models)
    if {"context", "scales", "attention"} & set(scope.parts):
        probes = probe_models(headlines, scope)
        if not probes:
            warnings.append(f"no document of the {scope.split} split has a token to predict, so that parts are missing")
    return Comparison(scope, models, unigram, probes, costs, memory, environment(scope.device), warnings)


def _evaluated(run: Run, scope: Scope) -> Run:
    evaluation = evaluate_once(
        run.checkpoint, scope.manifest, scope.split, stride=scope.stride, batch_size=scope.batch_size,
        device=scope.device,
    )  # fmt: skip
    return replace(run, evaluation=evaluation)


def _warnings(models: list[ModelRuns]) -> list[str]:
    """What makes the comparison unfair, if anything."""
    warnings = []
    evaluations = [run.evaluation for model in models for run in model.runs if run.evaluation]
    sizes = [evaluation.parameters for evaluation in evaluations]
    if sizes and max(sizes) > 1.03 * min(sizes):
        warnings.append(f"parameters differ by {max(sizes) / min(sizes) - 1:.1%}")
    if len({run.info.tokens for model in models for run in model.runs}) > 1:
        warnings.append("the models were trained on different numbers of tokens")
    if len({(evaluation.context, evaluation.stride) for evaluation in evaluations}) > 1:
        warnings.append("the models were evaluated with different contexts")
    if len({tuple(sorted(model.seeds)) for model in models}) > 1:
        warnings.append("the models were not trained with the same seeds")
    return warnings
