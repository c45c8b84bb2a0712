"""The file of a study: its models, its groups of runs and its limits, read and checked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline import UserError
from eval.settings import build, merged, nearest, read_mapping
from maha_model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class StudyGroup:
    """Runs that are compared with each other: every model with every seed at every context length."""

    name: str
    models: list[str]
    context_lengths: list[int]
    seeds: list[int] = field(default_factory=lambda: [0])
    learning_rates: list[float] = field(default_factory=list)
    """A sweep: every one is tried. Empty: each model takes the best of its sweep, see `best_of`."""
    best_of: str = ""
    """The sweep group whose best learning rates these runs take."""
    tuned_as: str = ""
    """The model whose learning rate models take that are not in the sweep."""
    tokens: int = 0
    """Training tokens of a run; 0: the study's."""
    tokens_per_step: int = 0
    """Tokens of an optimiser step; 0: the study's."""
    time_of: str = ""
    """If given, all train for as long as this model does: their tokens follow from the measured speeds."""
    test: bool = False
    """Scored on the test split, once, at the end."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The study's file."""

    experiment: str
    """MLflow experiment of all runs."""
    vocab_size: int
    """Of the tokenizer, if the study prepares the data."""
    tokens: int
    """Training tokens of a run."""
    tokens_per_step: int
    """Tokens of an optimiser step, whatever the context length."""
    eval_tokens: int
    """Validation tokens scored at the end of a run."""
    micro_batch_tokens: int
    """Tokens of one forward pass."""
    base: dict[str, Any]
    """Run configuration that all runs share."""
    models: dict[str, dict[str, Any]]
    """Overrides of the model's configuration by name."""
    groups: list[StudyGroup]
    criteria: list[dict[str, Any]] = field(default_factory=list, metadata={"key": "figures"})
    """Limits that the results are compared with, see `eval.studies.criteria`; in the file under `figures`."""

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read a study's file, here or among the shipped ones. Raises UserError if it is not one."""
        values = read_mapping(path, "study", "eval/studies")
        groups = values.pop("groups", None) or {}
        found = [build(StudyGroup, {"name": name, **group}, f"{path}, group {name}") for name, group in groups.items()]
        study = build(cls, {**values, "groups": found}, str(path))
        study.check(path)
        return study

    def check(self, path: Path) -> None:
        """Raises UserError, naming the file, if its groups do not fit its models and each other."""
        names = {group.name for group in self.groups}
        for group in self.groups:
            for model in [*group.models, *filter(None, (group.tuned_as, group.time_of))]:
                if model not in self.models:
                    raise UserError(
                        f"{path}, group {group.name}: no model is called {model!r}{nearest(model, self.models)}"
                    )
            if bool(group.learning_rates) == bool(group.best_of):
                raise UserError(f"{path}, group {group.name}: give learning_rates to try, or best_of a sweep's name")
            if group.best_of and group.best_of not in names:
                raise UserError(f"{path}, group {group.name}: no group is called {group.best_of!r}")
            per_step = self.tokens_of_step(group)
            for context in group.context_lengths:
                if per_step % context:
                    raise UserError(f"{path}: context length {context} does not divide tokens_per_step {per_step}")

    def tokens_of_step(self, group: StudyGroup) -> int:
        """Tokens of an optimiser step of the group's runs."""
        return group.tokens_per_step or self.tokens_per_step

    def group(self, name: str) -> StudyGroup:
        """The group of that name. Raises UserError if there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(
            f"the study has no group {name!r}; choose among {', '.join(group.name for group in self.groups)}"
        )

    def model_config(self, model: str, context: int, vocab_size: int) -> ModelConfig:
        """The configuration of a model at a context length. Raises ConfigError if it cannot work."""
        values = merged(self.base.get("model", {}), self.models[model])
        return ModelConfig.from_dict({**values, "context_length": context, "vocab_size": vocab_size})
