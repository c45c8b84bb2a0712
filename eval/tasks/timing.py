"""What an update of each model of a suite takes, the models in turns."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from eval.bench.criteria import best_times
from eval.tasks.suite import Run
from eval.tasks.training import Learner


@dataclass(frozen=True)
class UpdateTime:
    """Of one model on one task at one length."""

    task: str
    """Its name in the suite."""
    length: int
    model: str
    seconds: float
    """Of the shortest update."""


def times_of_updates(runs: Iterable[Run], device: str, rounds: int) -> list[UpdateTime]:
    """Times of updates of the task itself, of one seed; the models of a task and length take turns, `rounds` each."""
    together: dict[tuple[str, int], dict[str, Learner]] = {}
    found = []
    for run in runs:
        models = together.setdefault((run.entry, run.length), {})
        if run.model not in models:
            models[run.model] = Learner(run.config, run.stages[-1:], run.training, run.seed, device)
    for (task, length), models in together.items():
        # .item() waits for a GPU
        updates = {name: partial(lambda learner: learner.update().item(), learner) for name, learner in models.items()}
        times = best_times(updates, float("inf"), rounds)
        found += [UpdateTime(task, length, model, seconds) for model, seconds in times.items()]
    return found


def table_of_times(times: list[UpdateTime]) -> str:
    """Markdown; of every model also how many times the shortest one of its task and length it takes."""
    lines = ["| Task | Length | Model | Seconds an update | Over the least |", "| --- | --- | --- | --- | --- |"]
    for time in times:
        least = min(other.seconds for other in times if (other.task, other.length) == (time.task, time.length))
        lines.append(
            f"| {time.task} | {time.length} | {time.model} | {time.seconds:.4f} | {time.seconds / least:.3f} |"
        )
    return "\n".join(lines)
