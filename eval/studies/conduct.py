"""A study from beginning to end: prepare the data, train what is not finished, score, collect the rows."""

import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from data_pipeline import Manifest, UserError
from data_pipeline.files import atomic_write
from eval.studies.jobs import ROOT, Jobs
from eval.studies.plan import CONFIG, PlannedRun, planned_runs
from eval.studies.results import Row, rows_of, test_scores, test_stride
from eval.studies.speed import step_seconds
from eval.studies.study import Study
from eval.undefined import shown

LAUNCHER = ROOT / "launch" / "pretrain.sh"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What of a study is done, and where."""

    out: Path
    """Folder of the runs and the results."""
    data: Path
    """The prepared data set."""
    source: str | None = None
    """What the data set is prepared from; None: it exists."""
    groups: tuple[str, ...] = ()
    """Names of the groups; empty: all."""
    jobs: int = 1
    """Runs in parallel."""
    test: bool = False
    """Whether tested groups are scored on the test split."""
    only_results: bool = False
    """Whether nothing is trained."""


def conduct(study: Study, options: Options) -> list[Row]:
    """Do what the options name, group by group; the rows of all groups. The folder exists and is claimed."""
    out, data = options.out, options.data
    jobs = Jobs(out, options.jobs)
    if options.source is None:
        Manifest.load(data)  # (a data set that is missing and a store that cannot be used: before anything is written)
    if not options.only_results:
        from pretrain.session import make_experiment  # imports DeepSpeed: seconds

        make_experiment(jobs.environment["MLFLOW_TRACKING_URI"], study.experiment)
    manifest = prepare(jobs, study, options.source, data, out)
    rows: list[Row] = []
    for group in study.groups:
        if options.groups and group.name not in options.groups:
            continue
        seconds = None
        if group.time_of:
            threads = int(jobs.environment["OMP_NUM_THREADS"])
            seconds = step_seconds(study, group, manifest.vocab_size, out, threads)
        runs = planned_runs(study, group, data, out, seconds)
        print(f"group {group.name}: {len(runs)} runs", flush=True)
        if not options.only_results:
            train(jobs, runs, out)
        if group.test and options.test:
            score(jobs, runs, data, out)
        rows += rows_of(group, runs, out)
    return rows


def train(jobs: Jobs, runs: list[PlannedRun], out: Path) -> None:
    """Train what is not finished."""
    waiting = [run for run in runs if run.validation_loss(out) is None]
    jobs.run([lambda run=run: _train(jobs, run, out) for run in waiting])  # type: ignore[misc]


def _train(jobs: Jobs, run: PlannedRun, out: Path) -> str:
    folder = run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / CONFIG) as file:
        file.write(yaml.safe_dump(run.config, sort_keys=False).encode())
    launcher = ["bash", str(LAUNCHER), "--config", str(folder / CONFIG), "--out", str(folder)]
    jobs.call([*launcher, "--resume", "auto"], folder / "log.txt")
    loss = run.validation_loss(out)
    if loss is None:
        raise UserError(f"run {run.name} ended before its last step, see {folder / 'log.txt'}; run the study again")
    return f"{run.name}: validation loss {loss:.4f}"


def score(jobs: Jobs, runs: list[PlannedRun], data: Path, out: Path) -> None:
    """Score on the test split what is not scored yet."""
    waiting = [run for run in runs if test_scores(run, out) is None]
    jobs.run([lambda run=run: _score(jobs, run, data, out) for run in waiting])  # type: ignore[misc]


def _score(jobs: Jobs, run: PlannedRun, data: Path, out: Path) -> str:
    folder = run.folder(out)
    command = [sys.executable, "-m", "eval.ppl", "--checkpoint", str(folder), "--data", str(data),
               "--stride", str(test_stride(run.context_length)), "--batch-size", "1", "--keep"]  # fmt: skip
    jobs.call(command, folder / "log.txt")
    scores = test_scores(run, out)
    assert scores is not None, "eval.ppl --keep keeps them"
    return f"{run.name}: test perplexity per word {shown(scores['word_perplexity'], 2)}"


def prepare(jobs: Jobs, study: Study, source: str | None, data: Path, out: Path) -> Manifest:
    """The study's data set, made from `source` if there is one."""
    if source is not None:
        command = [sys.executable, "-m", "data_pipeline.prepare", "--source", source, "--out", str(data)]
        jobs.call([*command, "--vocab-size", str(study.vocab_size)], out / "prepare.txt")
    return Manifest.load(data)
