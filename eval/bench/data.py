"""Data at scale: python -m eval.bench data [--gigabytes 1 --documents 2000000] [--json].

Memory of data_pipeline.prepare on generated text of one and of four times the size; its speed beside that of
SentencePiece alone in as many processes, in turn; and how long a run of one step takes on a data set of many short
documents and on one of 14, at the first start, which verifies the files, and at later ones.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from data_pipeline import CommandParser, Manifest, UserError, at_least, user_errors, user_path
from data_pipeline.request import PARTIAL
from data_pipeline.tokenizer import SENTENCEPIECE
from eval.bench.criteria import Criterion, best_times, print_report
from eval.bench.encoding_speed import Alone, prepared
from eval.bench.generated_text import append_documents

VOCABULARY = 8192
BOOK = (2000, 6000)
"""Characters of a document, least and most, where size is measured."""
SHORT = (40, 80)
"""The same where the number of documents is."""
FEW = 14
STARTS = 3
CONTEXT = 32


def write_source(folder: Path, characters: int, size: tuple[int, int]) -> int:
    """A source of about `characters` in all; the number of its documents. Held-out splits are small."""
    folder.mkdir(parents=True, exist_ok=True)
    held_out = [append_documents(folder / f"{name}.jsonl", 20 * size[1], *size) for name in ("validation", "test")]
    return sum(held_out) + append_documents(folder / "train.jsonl", characters, *size)


def prepare_measured(source: Path, out: Path, workers: int, vocabulary: int = VOCABULARY) -> dict[str, float]:
    """Run the command; seconds, and peak bytes of all its processes together, of the whole and while it tokenizes."""
    command = [sys.executable, "-m", "data_pipeline.prepare", "--source", source, "--out", out]
    options = ["--workers", workers, "--vocab-size", vocabulary]
    start = time.perf_counter()
    process = psutil.Popen(list(map(str, [*command, *options])), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = tokenizing = 0
    tokenizing_from: float | None = None
    while process.poll() is None:
        size = 0
        with suppress(psutil.Error):
            size = sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
        peak = max(peak, size)
        if tokenizing_from is None and (out / PARTIAL / SENTENCEPIECE).exists():
            tokenizing_from = time.perf_counter()
        if tokenizing_from is not None:
            tokenizing = max(tokenizing, size)
        time.sleep(0.1)
    end = time.perf_counter()
    if process.returncode:
        raise UserError(f"data_pipeline.prepare failed: {process.stderr.read().decode().splitlines()[-1:]}")
    return {
        "seconds": end - start, "tokenizing_seconds": end - (tokenizing_from or end),
        "peak": peak, "tokenizing_peak": tokenizing,
    }  # fmt: skip


def bench_memory(folder: Path, characters: int, workers: int) -> list[dict[str, float]]:
    """Peaks of `prepare` on a text of `characters` and on one that begins with it and is four times as long."""
    rows = []
    source, out, written = folder / "source", folder / "set", 0
    for size in (characters, 4 * characters):
        if written:
            append_documents(source / "train.jsonl", size - written, *BOOK)
        else:
            write_source(source, size, BOOK)
        written = size
        rows.append({"characters": size, **prepare_measured(source, out, workers)})
        shutil.copy(out / SENTENCEPIECE, folder / SENTENCEPIECE)
        shutil.rmtree(out)
    shutil.rmtree(source)
    return rows


def bench_speed(folder: Path, characters: int, workers: int) -> dict[str, float]:
    """Seconds for `characters` of SentencePiece alone and of everything that `prepare` does after its tokenizer."""
    text = folder / "turns.jsonl"
    append_documents(text, characters, *BOOK)
    with Alone(text, folder / SENTENCEPIECE, workers) as alone:
        functions: dict[str, Callable[[], Any]] = {
            "SentencePiece alone": alone,
            "prepare": lambda: prepared(text, folder / SENTENCEPIECE, workers, folder / "turns"),
        }
        return best_times(functions, seconds=120, most=STARTS)


def prepare_sets(folder: Path, documents: int, workers: int) -> dict[str, Path]:
    """Data sets of FEW documents and of about `documents` short ones."""
    sources = {name: folder / f"{name}-source" for name in ("few", "many")}
    sources["few"].mkdir()
    for split, count in {"train": FEW - 2, "validation": 1, "test": 1}.items():
        append_documents(sources["few"] / f"{split}.jsonl", count * BOOK[1], BOOK[1], BOOK[1])
    write_source(sources["many"], documents * sum(SHORT) // 2, SHORT)
    for name, source in sources.items():
        prepare_measured(source, folder / name, workers, vocabulary=512)
        shutil.rmtree(source)
    time.sleep(3)  # (a file that was written within two seconds is verified again)
    return {name: folder / name for name in sources}


def bench_starts(sets: dict[str, Path]) -> dict[str, Any]:
    """Documents of each data set; seconds of a run of one step, at the first start and the best of later ones."""
    documents = {
        name: sum(split.documents for split in Manifest.load(folder).splits.values()) for name, folder in sets.items()
    }
    rounds = [{name: train_one_step(folder) for name, folder in sets.items()} for _ in range(1 + STARTS)]
    later = {name: {clock: min(each[name][clock] for each in rounds[1:]) for clock in rounds[0][name]} for name in sets}
    return {"documents": documents, "first": rounds[0], "later": later}


def train_one_step(data: Path) -> dict[str, float]:
    """Seconds of pretrain.train, one process on the CPU, to the end of its first step; and those of the processors."""
    with tempfile.TemporaryDirectory() as out:
        options = [
            "--config", "pretrain/configs/sample.yaml", "--data", data, "--out", f"{out}/run", "--steps", 1,
            "--model.context_length", CONTEXT, "--model.num_layers", 1, "--model.span", CONTEXT,
        ]  # fmt: skip
        command = list(map(str, [sys.executable, "-m", "pretrain.train", *options]))
        environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode:
        raise UserError(f"pretrain.train failed: {result.stderr.splitlines()[-1:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": used}


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.08, help="size of the smaller text (default: 0.08)")
    parser.add_argument(
        "--documents",
        type=at_least(FEW),
        default=200_000,
        help="of the larger data set of the starts (default: 200000)",
    )
    parser.add_argument(
        "--turn-megabytes", type=at_least(1), default=64, help="text of a turn of the speeds (default: 64)"
    )
    parser.add_argument(
        "--workers", type=at_least(1), default=len(os.sched_getaffinity(0)), help="processes that tokenize"
    )
    parser.add_argument(
        "--folder", help="where to work; needs 1.7 times four times --gigabytes (default: a temporary one)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    place = user_path(args.folder) if args.folder else None
    with user_errors(), tempfile.TemporaryDirectory(dir=place) as temporary:
        folder = Path(temporary)
        memory = bench_memory(folder, int(args.gigabytes * 1e9), args.workers)
        speed = bench_speed(folder, args.turn_megabytes * 10**6, args.workers)
        starts = bench_starts(prepare_sets(folder, args.documents, args.workers))
    small, large = memory
    many = f"{starts['documents']['many']} documents"
    criteria = [
        Criterion("peak memory of prepare on 4 times the text", large["peak"] / small["peak"], 1.1),
        Criterion("the same while it tokenizes", large["tokenizing_peak"] / small["tokenizing_peak"], 1.1),
        Criterion(
            "speed of prepare over SentencePiece's", speed["SentencePiece alone"] / speed["prepare"], 0.8, at_least=True
        ),
        *(
            Criterion(
                f"seconds that a {name} start on {many} takes longer than on {FEW}",
                starts[name]["many"]["seconds"] - starts[name]["few"]["seconds"],
                3,
            )
            for name in ("first", "later")
        ),
    ]
    lines = [
        f"prepare {row['characters'] / 1e9:.2f} GB: {row['seconds']:.0f} s, peak {row['peak'] / 2**20:.0f} MiB, "
        f"{row['tokenizing_peak'] / 2**20:.0f} MiB while it tokenizes"
        for row in memory
    ]
    lines += [f"{name:20}{args.turn_megabytes / seconds:>8.2f} MB/s" for name, seconds in speed.items()]
    lines += [f"{name} start: {times}" for name, times in starts.items()]
    details = {"workers": args.workers, "memory": memory, "speed_seconds": speed, "starts": starts}
    print_report(lines, criteria, details, args.json)


if __name__ == "__main__":
    main()
