"""The same text prepared by this package, by `datasets.map` and by datatrove, with one tokenizer, in turns."""

import json
import os
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from data_pipeline import Manifest, UserError
from eval.bench.criteria import Criterion
from eval.bench.generated_text import append_documents
from eval.bench.peers.processes import started

BOOK = (2000, 6000)
"""Characters of a document, least and most."""
HELD_OUT = 200_000
"""Characters of the validation split."""
TRAINED_ON = 4_000_000
"""Characters that the tokenizer is trained on."""
OURS, DATASETS, DATATROVE = "ours", "datasets", "datatrove"
ROUNDS = 3


def write_text(folder: Path, characters: int, files: int) -> None:
    """Training text in as many files, as datatrove gives each of its processes files; and a little held out."""
    folder.mkdir()
    append_documents(folder / "validation.jsonl", HELD_OUT, *BOOK)
    for number in range(files):
        append_documents(folder / f"train-{number:05d}.jsonl", characters // files, *BOOK)


def train_tokenizer(text: Path, vocab_size: int, file: Path) -> None:
    """A byte-level tokenizer.json, trained on the beginning of a file; texts begin with the token <s>."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    with text.open() as lines:
        documents, size = [], 0
        for line in lines:
            documents.append(json.loads(line)["text"])
            size += len(documents[-1])
            if size >= TRAINED_ON:
                break
    tokenizer.train_from_iterator(documents, trainer)
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    tokenizer.save(str(file))


def commands(text: Path, tokenizer: Path, out: Path, workers: int) -> dict[str, list[object]]:
    """The command of each, for its own folder in `out`; of datatrove only where it is installed."""
    peer = "eval.bench.peers.prepare_"
    found: dict[str, list[object]] = {
        OURS: [
            sys.executable, "-m", "data_pipeline.prepare", "--source", text, "--tokenizer", tokenizer,
            "--out", out / OURS, "--workers", workers,
        ],
        DATASETS: [sys.executable, "-m", f"{peer}datasets", text, tokenizer, out / DATASETS, workers],
        DATATROVE: [sys.executable, "-m", f"{peer}datatrove", text, tokenizer, out / DATATROVE, workers],
    }  # fmt: skip
    return {name: command for name, command in found.items() if name != DATATROVE or find_spec("datatrove")}


def run(name: str, command: list[object], out: Path) -> float:
    """Prepare the text into out/name, from nothing, each process with one thread; seconds.

    Raises:
        UserError: with the last line of its messages, if the command fails.
    """
    shutil.rmtree(out / name, ignore_errors=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "home"), "RAYON_NUM_THREADS": "1"}
    log, start = out / f"{name}.log", time.perf_counter()
    with log.open("w") as errors, started(command, out, environment, errors) as process:
        process.communicate()
    if process.returncode:
        raise UserError(f"{name} could not prepare the text: {(log.read_text().splitlines() or ['no message'])[-1]}")
    return time.perf_counter() - start


def tokens_of(name: str, folder: Path) -> int:
    """How many tokens were written, of all documents with their begins."""
    if name == OURS:
        return sum(split.tokens for split in Manifest.load(folder).splits.values())
    if name == DATATROVE:
        return sum(file.stat().st_size for file in (folder / "set").glob("*.ds")) // 2
    from datasets import load_from_disk

    return int(np.sum([len(tokens) for tokens in load_from_disk(folder / "set")["input_ids"]]))


def bench_text(text: Path, tokenizer: Path, out: Path, workers: int) -> dict[str, Any]:
    """Characters of the text; of each its tokens and the seconds of every round.

    Every command is a fresh start, imports included.
    """
    starts = commands(text, tokenizer, out, workers)
    rounds = [{name: run(name, command, out) for name, command in starts.items()} for _ in range(ROUNDS)]
    characters = sum(len(json.loads(line)["text"]) for file in text.glob("*.jsonl") for line in file.open())
    rows = {
        name: {"tokens": tokens_of(name, out / name), "seconds": [each[name] for each in rounds]} for name in starts
    }
    return {"characters": characters, "workers": workers, "text": rows}


def criteria_of(measured: dict[str, Any]) -> list[Criterion]:
    """Our speed over each peer's, at the fastest of each; of one that is missing None."""
    rows = measured["text"]
    return [
        Criterion(
            f"characters/s of preparing text, ours over {peer}",
            min(rows[peer]["seconds"]) / min(rows[OURS]["seconds"]) if peer in rows else None, 1.0, at_least=True,
        )
        for peer in (DATASETS, DATATROVE)
    ]  # fmt: skip


def lines_of(measured: dict[str, Any]) -> list[str]:
    """A table: MB/s at the fastest, tokens."""
    return [f"{'text':24}{'MB/s':>12}{'tokens':>14}"] + [
        f"{name:24}{measured['characters'] / 1e6 / min(row['seconds']):>12.2f}{row['tokens']:>14,}"
        for name, row in measured["text"].items()
    ]
