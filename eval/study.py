"""A study: many training runs from one file, compared: python -m eval.study STUDY.yaml --out DIR [--source SOURCE]

The file lists models (overrides of one base configuration) and groups of runs (models x seeds x learning rates x
context lengths). Every run goes through launch/pretrain.sh in a folder of its own; what is finished is never run again,
what was interrupted continues. All runs log to one MLflow experiment. With --test the groups that ask for it are scored
on the test split, and then only: everything before that is decided on the validation split.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
import yaml

from data_pipeline import Manifest, UserError, user_errors
from data_pipeline.files import atomic_write
from eval.bench.criteria import best_times, print_report
from eval.studies.plan import CONFIG, Group, PlannedRun, Study
from eval.studies.results import Row, figures_of, rows_of, table, test_scores, test_stride
from maha_model import CausalLM, ConfigError, ModelConfig

_ROOT = Path(__file__).parent.parent
_STOPPED = "stopped; run the same command again to continue"


class Jobs:
    """Commands run beside each other, each with its share of the cores; stopped together."""

    def __init__(self, out: Path, jobs: int) -> None:
        self.jobs = jobs
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = threading.Lock(), False
        self.environment = os.environ | {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
            "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve() / 'mlflow.db'}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
        }

    def run(self, works: list[Callable[[], str]]) -> None:
        """Do all, printing what each returns. The first that raises stops the others, which save and end."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(work) for work in works]
            try:
                for number, future in enumerate(as_completed(futures), start=1):
                    print(f"[{number}/{len(works)}] {future.result()}", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise

    def stop(self) -> None:
        """Ask the running commands to end; a training run saves first."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.terminate()

    def call(self, command: list[str], log: Path) -> None:
        """Run a command to its end; what it prints goes to `log`.

        Raises:
            UserError: if it fails, naming the log; or if all were stopped.
        """
        with log.open("ab") as output:
            with self._lock:
                if self._stopped:
                    raise UserError(_STOPPED)
                child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=self.environment)
                self._children.add(child)
            status = child.wait()
            with self._lock:
                self._children.discard(child)
                if self._stopped:
                    raise UserError(_STOPPED)
        if status:
            raise UserError(f"a command ended with status {status}, see {log}; mend it and run the study again")


def train(jobs: Jobs, runs: list[PlannedRun], out: Path) -> None:
    """Train what is not finished."""
    waiting = [run for run in runs if run.validation_loss(out) is None]
    jobs.run([lambda run=run: _train(jobs, run, out) for run in waiting])  # type: ignore[misc]


def _train(jobs: Jobs, run: PlannedRun, out: Path) -> str:
    folder = run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / CONFIG) as file:
        file.write(yaml.safe_dump(run.config, sort_keys=False).encode())
    launcher = ["bash", str(_ROOT / "launch/pretrain.sh"), "--config", str(folder / CONFIG), "--out", str(folder)]
    jobs.call([*launcher, "--resume", "auto"], folder / "log.txt")
    loss = run.validation_loss(out)
    if loss is None:
        raise UserError(f"run {run.name} ended before its last step, see {folder / 'log.txt'}; run the study again")
    return f"{run.name}: validation loss {loss:.4f}"


def score(jobs: Jobs, runs: list[PlannedRun], data: Path, out: Path) -> None:
    """Score on the test split what has not been."""
    waiting = [run for run in runs if test_scores(run, out) is None]
    jobs.run([lambda run=run: _score(jobs, run, data, out) for run in waiting])  # type: ignore[misc]


def _score(jobs: Jobs, run: PlannedRun, data: Path, out: Path) -> str:
    folder = run.folder(out)
    command = [sys.executable, str(_ROOT / "eval/ppl.py"), "--checkpoint", str(folder), "--data", str(data),
               "--stride", str(test_stride(run.context_length)), "--batch-size", "1", "--keep"]  # fmt: skip
    jobs.call(command, folder / "log.txt")
    scores = test_scores(run, out)
    assert scores is not None, "ppl.py has kept them"
    return f"{run.name}: test perplexity per word {scores['word_perplexity']:.2f}"


def step_seconds(study: Study, group: Group, vocab_size: int, out: Path, threads: int) -> dict[str, float]:
    """Time of a training step of every model of a group with `time_of`, taken in turns; measured once, then kept."""
    path = out / f"speed-{group.name}.json"
    if not path.exists():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(threads)
        (context,) = group.context_lengths
        windows = max(1, min(study.tokens_of_step(group), study.micro_batch_tokens) // context)
        dtype = torch.bfloat16 if study.base.get("precision") == "bfloat16" else torch.float32
        steps = {
            name: _step(study.model_config(name, context, vocab_size), windows, device, dtype)
            for name in dict.fromkeys([*group.models, group.time_of])
        }
        with atomic_write(path) as file:
            file.write(json.dumps(best_times(steps, seconds=20)).encode())
    return {name: float(value) for name, value in json.loads(path.read_bytes()).items()}


def _step(config: ModelConfig, windows: int, device: str, dtype: torch.dtype) -> Callable[[], None]:
    """Forward, backward and AdamW on random tokens."""
    torch.manual_seed(0)
    model = CausalLM(config).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(config.vocab_size, (windows, config.context_length), device=device)

    def step() -> None:
        loss = model(ids, ids).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def prepare(jobs: Jobs, study: Study, source: str | None, data: Path, out: Path) -> Manifest:
    """The study's data set, made from `source` if there is one."""
    if source is not None:
        command = [sys.executable, "-m", "data_pipeline.prepare", "--source", source, "--out", str(data)]
        jobs.call([*command, "--vocab-size", str(study.vocab_size)], out / "prepare.txt")
    return Manifest.load(data)


def create_experiment(uri: str, name: str) -> None:
    """Make the MLflow store and the experiment, which runs that start at the same time would all try to make."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name)


def _stop(*_: object) -> None:
    raise UserError(_STOPPED)


def conduct(study: Study, args: argparse.Namespace) -> list[Row]:
    """Everything that the options ask for, group by group; the rows of all groups."""
    out, data = args.out, args.data or args.out / "data"
    out.mkdir(parents=True, exist_ok=True)
    jobs = Jobs(out, args.jobs)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    manifest = prepare(jobs, study, args.source, data, out)
    create_experiment(jobs.environment["MLFLOW_TRACKING_URI"], study.experiment)
    rows: list[Row] = []
    for group in study.groups:
        if args.group and group.name not in args.group:
            continue
        seconds = None
        if group.time_of:
            threads = int(jobs.environment["OMP_NUM_THREADS"])
            seconds = step_seconds(study, group, manifest.vocab_size, out, threads)
        runs = study.runs(group, data, out, seconds)
        print(f"group {group.name}: {len(runs)} runs", flush=True)
        if not args.only_results:
            train(jobs, runs, out)
        if group.test and args.test:
            score(jobs, runs, data, out)
        rows += rows_of(group, runs, out)
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m eval.study", description=__doc__)
    parser.add_argument("study", type=Path, help="a study's file, see eval/studies")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs and the results")
    parser.add_argument("--source", help="what to prepare the data from: sample, pg19, a file or a folder")
    parser.add_argument("--data", type=Path, help="the prepared data set (default: OUT/data)")
    parser.add_argument("--group", action="append", help="only this group of runs; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other; each gets its share of the cores")
    parser.add_argument("--test", action="store_true", help="score tested groups on the test split at the end")
    parser.add_argument("--only-results", action="store_true", help="train nothing: the results of what is finished")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    args = parser.parse_args()
    with user_errors(ConfigError):
        if args.jobs < 1:
            raise UserError(f"--jobs is {args.jobs}; it must be at least 1")
        study = Study.load(args.study)
        for name in args.group or []:
            study.group(name)
        rows = conduct(study, args)
        figures = figures_of(study, rows)
        values = {"study": str(args.study), "rows": [row.to_dict() for row in rows]}
        report = {**values, "figures": [figure.to_dict() for figure in figures]}
        for name, content in (("results.json", json.dumps(report, indent=1)), ("results.md", table(rows) + "\n")):
            with atomic_write(args.out / name) as file:
                file.write(content.encode())
    print_report([table(rows)], figures, values, args.json)


if __name__ == "__main__":
    main()
