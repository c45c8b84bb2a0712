"""What the captions of all exhibits cite: the comparison, the text and the machine."""

from collections.abc import Iterable
from dataclasses import dataclass

from eval.report.comparison import Comparison
from eval.report.environment import describe
from eval.report.model_runs import ModelRuns
from eval.report.page import Exhibit, described


@dataclass(frozen=True)
class Source:
    """One comparison."""

    comparison: Comparison

    @property
    def machine(self) -> str:
        """The machine that measured, in one line."""
        return describe(self.comparison.machine)

    @property
    def text(self) -> str:
        """Split and data fingerprint."""
        scope = self.comparison.scope
        return f"the {scope.split} split, data {scope.manifest.fingerprint[:12]}"

    def plot(
        self, part: str, title: str, drawn: str | None, caption: str, measured: str, notes: str = ""
    ) -> list[Exhibit]:
        """The exhibit of a plot; none if nothing was drawn."""
        if drawn is None:
            return []
        return [Exhibit(title, described(drawn, f"{title}. {caption}"), caption, measured, part, notes)]


def seeds_of(models: Iterable[ModelRuns]) -> str:
    """The seeds of every model, in one line."""
    return "; ".join(f"{model.label}: seed{'s' * (len(model.seeds) > 1)} {listed(model.seeds)}" for model in models)


def listed(values: Iterable[int]) -> str:
    """The distinct values in their order, by commas."""
    return ", ".join(map(str, dict.fromkeys(values)))
