"""`prepare` and `verify` as commands: same bytes always, survive kills and full disks, refuse what would mix data."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from data_pipeline import Manifest, Tokenizer, read_documents
from tests.conftest import ROOT, Run, book, write_jsonl

PREPARE = ("-m", "data_pipeline.prepare")
SMALL = ("--vocab-size", 512, "--shard-tokens", 3000)
Check = Callable[[subprocess.CompletedProcess[str], str], None]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def prepared(source_folder: Path, tmp_path_factory: pytest.TempPathFactory, run_command: Run) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "set"
    result = run_command(*PREPARE, "--source", source_folder, "--out", out, *SMALL, "--workers", 1)
    assert result.returncode == 0, result.stderr
    return out


def test_two_workers_write_the_same_bytes_as_one(
    prepared: Path, source_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    result = run_command(*PREPARE, "--source", source_folder, "--out", tmp_path / "two", *SMALL, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "two") == contents(prepared)


def test_a_killed_preparation_continues_to_the_same_bytes(
    prepared: Path, source_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "killed"
    command = [*PREPARE, "--source", source_folder, "--out", out, *SMALL, "--workers", 1]
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(list(out.glob(".partial/train-*.json"))) < 2:
        assert process.poll() is None, "finished before it could be killed: make the shards smaller"
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    kept = out / ".partial" / "train-00000.bin"
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    result = run_command(*command)
    assert result.returncode == 0, result.stderr
    finished = (out / "train-00000.bin").stat()
    assert (finished.st_mtime_ns, finished.st_ino) == before, "the finished shard was made again"
    assert contents(out) == contents(prepared)


@pytest.mark.parametrize("renames", [0, 1, 3, 100])
def test_a_kill_while_the_finished_files_are_moved_is_continued(
    prepared: Path, source_folder: Path, tmp_path: Path, run_command: Run, renames: int
) -> None:
    """The process kills itself (SIGKILL, nothing is cleaned up) at the given rename into the final folder."""
    out = tmp_path / "moved"
    command = ["--source", source_folder, "--out", out, *SMALL, "--workers", 1]
    script = f"""
import os, pathlib, shutil, signal, sys
from data_pipeline import prepare, unfinished
rename, rmtree, done = pathlib.Path.rename, shutil.rmtree, []
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def counted(self, target):
    die() if len(done) == {renames} else done.append(rename(self, target))
pathlib.Path.rename, unfinished.shutil.rmtree = counted, die
prepare.main()
"""
    assert run_command("-c", script, *command).returncode == -signal.SIGKILL
    assert (out / ".partial").exists()
    result = run_command(*PREPARE, *command)
    assert result.returncode == 0, result.stderr
    assert contents(out) == contents(prepared)


def test_two_preparations_of_one_folder_do_not_meet(
    source_folder: Path, tmp_path: Path, run_command: Run, assert_user_error: Check
) -> None:
    command = [*PREPARE, "--source", source_folder, "--out", tmp_path / "shared", *SMALL]
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    (tmp_path / "shared" / ".partial").mkdir(parents=True)
    lock = tmp_path / "shared" / ".partial" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", script, lock], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert_user_error(run_command(*command), "is being prepared by another process")
    finally:
        holder.kill()
    assert run_command(*command).returncode == 0


def test_documents_decode_to_the_raw_text_with_true_statistics(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    tokenizer = Tokenizer(manifest.tokenizer_path)
    for seed, document in zip(range(8, 10), read_documents(manifest, "test"), strict=True):
        text = book(seed, 2000 + 300 * seed)
        assert document.tokens[0] == tokenizer.bos_id
        assert tokenizer.decode(document.tokens[1:].tolist()) == text
        assert document.info.words == len(text.split())
        assert (document.info.characters, document.info.bytes) == (len(text), len(text.encode()))


def test_running_again_finds_the_data_set_and_another_request_is_refused(
    prepared: Path, source_folder: Path, run_command: Run, assert_user_error: Check
) -> None:
    before = contents(prepared)
    again = run_command(*PREPARE, "--source", source_folder, "--out", prepared, *SMALL)
    assert again.returncode == 0
    assert "is ready" in again.stdout
    other = run_command(*PREPARE, "--source", source_folder, "--out", prepared, "--vocab-size", 600)
    assert_user_error(other, "holds another data set (vocab size 512 instead of 600")
    assert contents(prepared) == before


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove"])
@pytest.mark.parametrize("name", ["train-00001.bin", "train-00001.idx", "tokenizer.model"])
def test_verify_names_the_damaged_file(
    prepared: Path, tmp_path: Path, run_command: Run, assert_user_error: Check, name: str, damage: str
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", prepared, copy], check=True)
    path = copy / name
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        os.truncate(path, path.stat().st_size - 2)
    else:
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    assert_user_error(run_command("-m", "data_pipeline.verify", copy), name.removesuffix(".bin").removesuffix(".idx"))


def test_verify_passes_a_whole_data_set(prepared: Path, run_command: Run) -> None:
    result = run_command("-m", "data_pipeline.verify", prepared)
    assert result.returncode == 0
    assert "are whole" in result.stdout


@pytest.mark.parametrize("existing", [True, False])
def test_bad_input_leaves_nothing_behind(
    tmp_path: Path, run_command: Run, assert_user_error: Check, existing: bool
) -> None:
    write_jsonl(tmp_path / "train.jsonl", [book(0, 3000), book(1, 3000)])
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe")
    out = tmp_path / "out"
    if existing:
        out.mkdir()
    result = run_command(*PREPARE, "--source", tmp_path, "--out", out, "--vocab-size", 512, "--workers", 1)
    assert_user_error(result, "is not UTF-8")
    assert out.exists() == existing
    assert not existing or not list(out.iterdir())


@pytest.mark.parametrize("row", ["3", "nonsense", "a lone surrogate"])
def test_a_bad_later_row_is_named_with_file_and_line(
    tmp_path: Path, run_command: Run, assert_user_error: Check, row: str
) -> None:
    """The trainer of the tokenizer, a library in C++, is what reads the rows first."""
    write_jsonl(tmp_path / "train.jsonl", [book(i, 300) for i in range(5)])
    bad = {"3": '{"text": 3}', "nonsense": "nonsense", "a lone surrogate": '{"text": "\\ud800"}'}[row]
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(bad + "\n")
    result = run_command(*PREPARE, "--source", tmp_path, "--out", tmp_path / "o", *SMALL)
    assert_user_error(result, f"error: {tmp_path / 'train.jsonl'}, line 6: ")
    assert ".py" not in result.stderr


def test_a_killed_worker_is_one_line_and_the_next_start_continues(
    prepared: Path, source_folder: Path, tmp_path: Path, run_command: Run, assert_user_error: Check
) -> None:
    """As the system does it where memory runs out: the worker that has the first books kills itself (SIGKILL)."""
    out = tmp_path / "killed"
    script = """
import os, signal
from data_pipeline import prepare, tokenizing
encode = tokenizing.encode
def killed(texts):
    if os.getpid() != int(os.environ["PARENT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(texts)
tokenizing.encode = killed
if __name__ == "__main__":
    os.environ["PARENT"] = str(os.getpid())
    prepare.main()
"""
    (tmp_path / "script.py").write_text(script)
    command = ["--source", source_folder, "--out", out, *SMALL, "--workers", 2]
    assert_user_error(run_command(tmp_path / "script.py", *command), "a process that tokenizes was killed")
    assert (out / ".partial" / "tokenizer.model").exists()
    assert run_command(*PREPARE, *command).returncode == 0
    assert contents(out) == contents(prepared)


STOPPED = "error: stopped; run the same command again to continue"


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [(signal.SIGHUP, 2, STOPPED), (signal.SIGTERM, 2, STOPPED), (signal.SIGINT, 2, STOPPED), (signal.SIGKILL, -9, "")],
)
def test_a_stopped_or_killed_command_leaves_no_process(
    tmp_path: Path, number: signal.Signals, status: int, line: str
) -> None:
    (tmp_path / "source").mkdir()
    for split, count in {"train": 3000, "validation": 1, "test": 1}.items():
        write_jsonl(tmp_path / "source" / f"{split}.jsonl", [book(i % 20, 100) + str(i) for i in range(count)])
    out, errors = tmp_path / "out", tmp_path / "errors.txt"
    options = ["--vocab-size", 512, "--workers", 2, "--shard-tokens", 300]
    command = [sys.executable, *PREPARE, "--source", tmp_path / "source", "--out", out, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with errors.open("w") as file:
        prepare = subprocess.Popen(list(map(str, command)), stderr=file, cwd=ROOT, env=environment)
    end = time.monotonic() + 200
    while not (out / ".partial" / "train-00000.json").exists():
        assert prepare.poll() is None, errors.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    processes = psutil.Process(prepare.pid).children()
    assert len(processes) == 3  # two that tokenize, and the one that cleans up after them
    prepare.send_signal(number)
    assert prepare.wait(100) == status
    left = psutil.wait_procs(processes, timeout=20)[1]
    for process in left:
        process.kill()
    assert not left
    lines = errors.read_text().splitlines()
    assert [text for text in lines if text.startswith("error: ")] == [line][: status > 0]
    assert status < 0 or "Traceback" not in errors.read_text()


def test_copies_and_documents_without_text_are_reported(tmp_path: Path, run_command: Run) -> None:
    texts = [book(i, 400) for i in range(8)]
    write_jsonl(tmp_path / "train.jsonl", [*texts, texts[0], ""])
    write_jsonl(tmp_path / "validation.jsonl", [texts[1], book(20, 400), texts[1]])
    write_jsonl(tmp_path / "test.jsonl", [book(20, 400), texts[7], book(21, 400)])
    (tmp_path / "notes.docx").write_bytes(b"")
    result = run_command(*PREPARE, "--source", tmp_path, "--out", tmp_path / "o", *SMALL, "--workers", 1)
    assert result.returncode == 0
    assert [line for line in result.stderr.splitlines() if line.startswith("warning: ")] == [
        f"warning: not read of {tmp_path}: notes.docx (none of .parquet, .jsonl, .json, .txt)",
        "warning: 1 documents have no text and are left out",
        "warning: the splits share documents (2 of validation are in train, 1 of test are in train, "
        "1 of test are in validation): a score on them is not one on new text",
    ]
    assert "train: 9 documents" in result.stdout


def test_copies_in_a_source_without_splits_are_reported(tmp_path: Path, run_command: Run) -> None:
    write_jsonl(tmp_path / "books.jsonl", [book(i, 400) for i in range(6) for _ in range(3)])
    command = ["--source", tmp_path / "books.jsonl", "--out", tmp_path / "o", *SMALL, "--workers", 1]
    result = run_command(*PREPARE, *command)
    assert result.returncode == 0
    assert [line for line in result.stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: 12 documents are copies of others; all copies of a text are in one split"
    ]


def test_paths_begin_at_the_home_folder(tmp_path: Path, source_folder: Path, run_command: Run) -> None:
    (tmp_path / "books").symlink_to(source_folder)
    result = run_command(*PREPARE, "--source=~/books", "--out=~/set", *SMALL, "--workers", 1, HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "set" / "manifest.json").exists()
    assert run_command("-m", "data_pipeline.verify", "~/set", HOME=str(tmp_path)).returncode == 0


def test_a_damaged_request_of_an_unfinished_data_set_is_one_line(
    tmp_path: Path, source_folder: Path, run_command: Run, assert_user_error: Check
) -> None:
    state = tmp_path / "o" / ".partial" / "request.json"
    state.parent.mkdir(parents=True)
    state.write_text("{")
    assert_user_error(run_command(*PREPARE, "--source", source_folder, "--out", tmp_path / "o"), "is damaged")
    assert state.exists()


def test_a_vocabulary_larger_than_the_text_and_an_empty_source_are_refused(
    tmp_path: Path, source_folder: Path, run_command: Run, assert_user_error: Check
) -> None:
    too_large = run_command(*PREPARE, "--source", source_folder, "--out", tmp_path / "o", "--vocab-size", 60000)
    assert_user_error(too_large, "--vocab-size 60000 is larger than the training text allows; use at most")
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text("")
    empty = run_command(*PREPARE, "--source", tmp_path, "--out", tmp_path / "o", "--vocab-size", 512)
    assert_user_error(empty, "holds no text")


def test_an_output_folder_with_other_files_is_not_touched(
    tmp_path: Path, source_folder: Path, run_command: Run, assert_user_error: Check
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert_user_error(run_command(*PREPARE, "--source", source_folder, "--out", tmp_path), "is not a data set")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unusable_output_path_is_one_line(
    tmp_path: Path, source_folder: Path, run_command: Run, assert_user_error: Check
) -> None:
    (tmp_path / "file").write_text("")
    assert_user_error(
        run_command(*PREPARE, "--source", source_folder, "--out", tmp_path / "file" / "set"),
        "file is a file; give a folder",
    )


@pytest.mark.parametrize("name", ["", "../train-00000", "/etc/passwd", 5])
def test_shard_names_cannot_leave_the_folder(
    prepared: Path, tmp_path: Path, run_command: Run, assert_user_error: Check, name: object
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", prepared, copy], check=True)
    values = json.loads((copy / "manifest.json").read_text())
    values["splits"]["train"]["shards"][0]["name"] = name
    (copy / "manifest.json").write_text(json.dumps(values))
    assert_user_error(run_command("-m", "data_pipeline.verify", copy), "is not the name of a shard")


def test_a_full_disk_is_one_line_and_the_next_start_continues(
    prepared: Path, source_folder: Path, tmp_path: Path, run_command: Run, assert_user_error: Check
) -> None:
    """On a real file system that holds less than the data set."""
    out = tmp_path / "disk"
    out.mkdir()
    command = [*PREPARE, "--source", source_folder, "--out", out, *SMALL, "--workers", 1]
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        assert_user_error(run_command(*command), "no space left on the device")
        assert not (out / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", out], check=True)
        assert run_command(*command).returncode == 0
        assert contents(out) == contents(prepared)
    finally:
        subprocess.run(["umount", out], check=True)
