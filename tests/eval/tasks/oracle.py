"""The check that every task has: its targets follow from the tokens up to the scored position, found by look-up."""

from collections.abc import Callable

import torch

from eval.tasks.task import Task

Oracle = Callable[[list[int]], tuple[int, int]]
"""The tokens up to a scored position, to the answer and the position of its evidence."""


def assert_oracle_is_right(task: Task, seed: int, oracle: Oracle) -> None:
    """An oracle that reads only what is before finds every target, at the distance that the batch has."""
    assert isinstance(task, Task)
    batch, again = (task.batch(3, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert batch.ids.shape == (3, task.length)
    assert batch.positions.shape == batch.targets.shape == batch.distances.shape
    assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True)), "a generator repeats it"
    assert 0 <= int(batch.ids.min()) <= int(batch.ids.max()) < task.vocab_size
    for ids, *scored in zip(*(x.tolist() for x in batch), strict=True):
        positions, targets, distances = scored
        assert len(set(positions)) == len(positions)
        for position, target, distance in zip(positions, targets, distances, strict=True):
            answer, evidence = oracle(ids[: position + 1])
            assert (answer, position - evidence) == (target, distance)
            assert distance >= 1
            assert ids[evidence] == target
