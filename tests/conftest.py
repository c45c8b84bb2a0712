"""Fixtures several rooms share: a small prepared data set, and a way to run the project's commands."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

from data_pipeline import Manifest
from data_pipeline.prepare import prepare
from data_pipeline.sources import find_source
from tests.integration.forked import run_module

pytest_plugins = ["tests.skips"]
ROOT = Path(__file__).parent.parent
hypothesis.settings.register_profile(  # a busy machine is no fault
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two workers share the cores
# A suite in the background, or under nohup, ignores signals, and so would the commands that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# No pool of processes for a few kernels; read when Inductor is imported, which the server of forked runs does once.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: before anything imports one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: at the end one worker would be alone with it."""
    items.sort(key=lambda item: "tests/integration/test_training.py" not in item.nodeid)


def book(seed: int, words: int) -> str:
    """Deterministic text with the statistics of a toy language: frequent words, sentences, lines."""
    rng = random.Random(seed)
    vocabulary = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in ("", "n", "s", "rt")]
    weights = [1 / (rank + 1) for rank in range(len(vocabulary))]
    out = []
    for sentence in range(words // 10):
        out.append(" ".join(rng.choices(vocabulary, weights, k=10)).capitalize() + ("." if sentence % 3 else ".\n"))
    return " ".join(out)


def write_jsonl(path: Path, texts: list[str]) -> None:
    rows = [{"short_book_title": f"{path.stem} {i}", "text": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books in PG-19's schema as jsonl: 6 to train on, 2 for validation, 2 for test."""
    folder = tmp_path_factory.mktemp("source")
    for split, seeds in {"train": range(6), "validation": range(6, 8), "test": range(8, 10)}.items():
        write_jsonl(folder / f"{split}-00000.jsonl", [book(seed, 2000 + 300 * seed) for seed in seeds])
    return folder


@pytest.fixture(scope="session")
def data(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The prepared form of `source_folder`, with several train shards."""
    out = tmp_path_factory.mktemp("data") / "set"
    return prepare(find_source(str(source_folder)), out, vocab_size=512, workers=1, shard_tokens=9000)


@pytest.fixture(scope="session")
def short_data(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Documents of a few to 200 tokens or so, in the tokenizer of `data`."""
    folder = tmp_path_factory.mktemp("short")
    for split, seeds in {"train": range(400), "validation": range(400, 440)}.items():
        texts = [book(seed, 10 * (1 + seed * seed % 13)) if seed % 7 else f"{seed}" for seed in seeds]
        write_jsonl(folder / f"{split}.jsonl", texts)
    return prepare(find_source(str(folder)), folder / "set", 0, 1, 9000, tokenizer=data.tokenizer_path)


@pytest.fixture(scope="session")
def json_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.json` as GPT-2 has it: byte-level, its only special token separates texts, no template."""
    tokenizers = pytest.importorskip("tokenizers")
    bytes_, file = tokenizers.pre_tokenizers.ByteLevel, tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = bytes_(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=450, special_tokens=["<|endoftext|>"], initial_alphabet=bytes_.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([book(seed, 2000) for seed in range(3)], trainer)
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="session")
def json_data(source_folder: Path, json_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """`source_folder` prepared with that tokenizer."""
    out = tmp_path_factory.mktemp("data") / "json"
    return prepare(find_source(str(source_folder)), out, 0, workers=1, shard_tokens=9000, tokenizer=json_tokenizer)


@pytest.fixture(scope="session")
def other_data(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Other text in the tokenizer of `data`."""
    folder = tmp_path_factory.mktemp("other")
    for split, seeds in (("train", range(30, 33)), ("validation", range(33, 34))):
        write_jsonl(folder / f"{split}.jsonl", [book(seed, 900) for seed in seeds])
    return prepare(find_source(str(folder)), folder / "set", 0, 1, 10**6, tokenizer=data.tokenizer_path)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_command() -> Run:
    """Run `python ARGS` from the project's root, one thread, output captured.

    `-m MODULE` is forked from a process that has imported torch and DeepSpeed already, which takes most of a command's
    time; a script, `-c` and the data pipeline's, which import little and search for packages, are new processes.
    Every command in a new one: tests/launch/test_wheel.py.
    """

    def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
        if args[0] == "-m" and not str(args[1]).startswith("data_pipeline."):
            return run_module(*map(str, args[1:]), environment=environment)
        command = [sys.executable, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)

    return run


@pytest.fixture(scope="session")
def assert_user_error() -> Callable[[subprocess.CompletedProcess[str], str], None]:
    """One line `error: ...` that says `message`, status 2, no traceback."""

    def check(result: subprocess.CompletedProcess[str], message: str) -> None:
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.returncode == 2, result.stderr
        assert len(errors) == 1, result.stderr
        assert message in errors[0]
        assert "Traceback" not in result.stderr

    return check
