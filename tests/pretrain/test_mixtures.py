"""Runs on mixtures: what is read, a resume, a later stage that is changed, and one after a single data set."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_pipeline import Manifest, UserError, WindowDataset, load_data
from pretrain.batches import TrainingBatches
from pretrain.check_windows import check_windows, pass_over
from pretrain.checkpoint import find_checkpoint
from pretrain.config import RunConfig
from pretrain.preflight import check_resume
from pretrain.progress import Progress
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING
from tests.pretrain.checkpoint.test_store import CONFIG, save


def write(path: Path, *stages: list[tuple[Manifest, Any]], after: int = 24) -> Path:
    first, *later = ({str(source.folder): weight for source, weight in stage} for stage in stages)
    entries = [{"after": after * number, "sources": sources} for number, sources in enumerate(later, start=1)]
    path.write_text(yaml.safe_dump({"sources": first, "later": entries}, sort_keys=False))
    return path


class _Alone:
    """One process."""

    rank, world_size = 0, 1


def test_batches_are_windows_of_the_sources_whatever_the_number_of_processes(
    tmp_path: Path, data: Manifest, other_data: Manifest
) -> None:
    path = write(tmp_path / "mix.yaml", [(data, 1), (other_data, 1)])
    config = RunConfig(data=path, model=CONFIG, global_batch_size=8, micro_batch_size=2)
    context = CONFIG.context_length
    windows = {
        tuple(source[number][0]): name
        for name, source in (
            ("data", WindowDataset(data, "train", context)),
            ("other", WindowDataset(other_data, "train", context)),
        )
        for number in range(len(source))
    }
    whole = TrainingBatches(load_data(path), config, _Alone())  # type: ignore[arg-type]
    ids = np.concatenate([batch[0].numpy() for first in range(0, 80, 8) for batch in whole(first, 8)])
    found = [windows[tuple(row)] for row in ids]
    assert 20 < found.count("other") < 60
    shares = []
    for number in range(2):
        rank = type("Rank", (), {"rank": number, "world_size": 2})()
        shares += [batch[0].numpy() for batch in TrainingBatches(load_data(path), config, rank)(8, 8)]
    assert np.array_equal(np.concatenate(shares), ids[8:16])


def test_only_stages_after_a_checkpoint_may_change(tmp_path: Path, data: Manifest, other_data: Manifest) -> None:
    config = RunConfig(model=CONFIG)
    checkpoint, _ = save(tmp_path / "run", data, 3)  # after 24 windows of `data` alone
    path = write(tmp_path / "mix.yaml", [(data, 1)], [(data, 1), (other_data, 2)])
    check_resume(checkpoint, config, load_data(path))
    with pytest.raises(UserError, match="of a mixture only stages after window 24 may change"):
        check_resume(checkpoint, config, load_data(write(path, [(data, 1)], [(other_data, 2)], after=23)))


def test_a_run_resumes_in_its_mixture_bitwise_and_a_later_stage_may_be_added(
    tmp_path: Path, data: Manifest, other_data: Manifest
) -> None:
    def run(name: str, path: Path, steps: int) -> list[list[Any]]:
        command = [f"--data={path}", f"--out={tmp_path / name}", *MODEL, *TRAINING, f"--steps={steps}"]
        schedule = ("--optimizer.schedule=constant", "--checkpoint_interval=3", "--resume=auto")
        result = ForkedRun(1, *command, *schedule).wait()
        assert result.returncode == 0, result.stdout
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [[line["step"], line["loss"]] for line in map(json.loads, lines) if "loss" in line]

    other = {"weight": 1, "epochs": 9, "seed": 7}
    planned = write(tmp_path / "planned.yaml", [(data, 1), (other_data, other)], [(other_data, 1)])
    whole = run("whole", planned, 6)
    path = write(tmp_path / "mix.yaml", [(data, 1), (other_data, other)])
    assert run("stopped", path, 3) == whole[:3]
    write(path, [(data, 1), (other_data, other)], [(other_data, 1)])  # 3 steps of 8 windows later
    assert run("stopped", path, 6) == whole


def test_batches_go_on_at_any_sample_after_a_source_has_given_its_epochs(
    tmp_path: Path, data: Manifest, other_data: Manifest
) -> None:
    path = write(tmp_path / "mix.yaml", [(data, 1), (other_data, {"weight": 9, "epochs": 1, "seed": 7})])
    context = CONFIG.context_length
    config = RunConfig(data=path, model=CONFIG, global_batch_size=8, micro_batch_size=8)
    other = WindowDataset(other_data, "train", context)
    rows = {tuple(other[number][0]) for number in range(len(other))}
    samples = 8 * (2 * len(other) // 8)

    def ids(batches: TrainingBatches, first: int) -> np.ndarray:
        (found,) = batches(first, 8)
        return found.ids.numpy()

    def batches() -> TrainingBatches:
        return TrainingBatches(load_data(path), config, _Alone())  # type: ignore[arg-type]

    whole = batches()
    read = [tuple(row) for first in range(0, samples, 8) for row in ids(whole, first)]
    assert sum(row in rows for row in read) == len(rows) == len(other)  # each once, and no more
    assert not any(row in rows for row in read[-len(other) // 2 :])
    for first in (samples // 2 // 8 * 8, samples - 8):
        assert np.array_equal(ids(batches(), first), ids(whole, first))


def test_a_run_longer_than_all_epochs_is_refused_at_the_start(tmp_path: Path, data: Manifest) -> None:
    path = write(tmp_path / "mix.yaml", [(data, {"weight": 1, "epochs": 1})])
    windows = len(WindowDataset(data, "train", CONFIG.context_length))
    mixture = load_data(path)
    fitting = RunConfig(data=path, model=CONFIG, global_batch_size=8, micro_batch_size=8, steps=windows // 8)
    check_windows(fitting, mixture, Progress())
    longer = dataclasses.replace(fitting, steps=windows // 8 + 1)
    with pytest.raises(
        UserError, match=rf"has {windows} training windows in all its epochs, the run takes \d+; give mor"
    ):
        check_windows(longer, mixture, Progress())
    # of a resumed run what it has taken counts, with whatever batch, and what it passes over
    begun = Progress(step=4, samples=16)
    check_windows(longer, mixture, begun)
    skipping = dataclasses.replace(longer, skip_batches=4)
    assert pass_over(skipping, begun) == 4
    with pytest.raises(UserError, match=r"the run takes \d+; give a later stage before they end, or fewer --steps"):
        check_windows(skipping, mixture, begun)


def test_a_run_whose_windows_end_before_it_saves_its_last_step(tmp_path: Path, data: Manifest) -> None:
    """Since batches were passed over for a loss that is not finite, say, which the start cannot know."""
    path = write(tmp_path / "mix.yaml", [(data, {"weight": 1, "epochs": 1})])
    windows = len(WindowDataset(data, "train", 64))
    options = [
        f"--data={path}",
        f"--out={tmp_path / 'run'}",
        *MODEL,
        *TRAINING,
        f"--steps={windows // 4}",
        "--global_batch_size=4",
    ]
    result = ForkedRun(1, *options, module=__name__, function=pass_over_and_train.__name__).wait()
    assert result.returncode == 4, result.stdout
    assert f"error: the mixture has {windows} training windows in all its epochs; give a later stage" in result.stdout
    assert find_checkpoint(tmp_path / "run").name == f"step-{windows // 4 - 1:08d}"


def pass_over_and_train() -> None:
    from pretrain.session import parse_config, training_session

    with training_session(parse_config(sys.argv[1:])) as trainer:
        trainer.progress.pass_over(1, trainer.config.global_batch_size)
        trainer.run()
