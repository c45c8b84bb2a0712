"""lm-eval itself, on local tasks, through an export: its values are those of our own evaluation."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_pipeline import Manifest, Tokenizer
from data_pipeline.prepare import prepare
from data_pipeline.sources import find_source
from eval.lm_tasks import FOLDER
from eval.scoring import SplitOfData, TextFile, evaluate
from pretrain.checkpoint import load_model
from pretrain.export import export
from tests.conftest import Run, book, write_jsonl
from tests.eval.conftest import make_run  # noqa: F401  # a fixture

pytestmark = pytest.mark.integration
CONTEXT = 32  # of make_run's models
QUESTIONS: list[dict[str, Any]] = [
    {"context": "Bada kisrt", "choices": ["bin do", "grt", "na na na na"]},
    {"context": "", "choices": ["Sort", "belu mon"]},
    {"context": "Motrt na. Lin", "choices": ["ko", "ru", "pa", "tesrt"]},
]


def whole_windows(tokenizer: Tokenizer, text: str, context: int = CONTEXT) -> str:
    """The longest beginning of `text`, in words, of a multiple of `context` tokens: lm-eval's last window is then ours.

    A shorter last window it would fill up with what came before; ours begin at multiples of the stride.
    """
    words = text.split()
    starts = (" ".join(words[:count]) for count in range(len(words), 0, -1))
    return next(start for start in starts if len(tokenizer.encode(start)) % context == 0)


def tasks(folder: Path, texts: list[str], questions: list[dict[str, Any]]) -> Path:
    """A folder of two tasks and their data: perplexity of `texts`, and `questions`."""
    folder.mkdir()
    for name, rows, task in (
        (
            "own_perplexity", [{"text": text} for text in texts],
            {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
             "metric_list": [{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")]},
        ),
        (
            "own_choice", questions,
            {"output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
             "doc_to_target": "label", "metric_list": [{"metric": "acc"}]},
        ),
    ):  # fmt: skip
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        where = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **where, **task}))
    return folder


@torch.no_grad()
def choice_loglikelihoods(folder: Path, context: str, continuations: list[str]) -> list[float]:
    """Log-likelihood of every continuation of the context, from our own model's logits."""
    model, tokenizer = load_model(folder), Tokenizer(folder / "tokenizer.model")
    found = []
    for continuation in continuations:
        before, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
        if not before:  # the beginning of a document
            before, whole = [tokenizer.bos_id], [tokenizer.bos_id, *whole]
        log_probabilities = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        scored = range(len(before), len(whole))
        found.append(sum(float(log_probabilities[t - 1, whole[t]]) for t in scored))
    return found


def held_out(texts: list[str], source_folder: Path, folder: Path) -> Manifest:
    """A data set whose test split has these texts."""
    source = folder / "source"
    source.mkdir()
    for file in source_folder.glob("train*"):
        (source / file.name).write_bytes(file.read_bytes())  # of the same train split comes the same tokenizer
    write_jsonl(source / "test-00000.jsonl", texts)
    return prepare(find_source(str(source)), folder / "set", vocab_size=512, workers=1, shard_tokens=10**6)


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def offline(folder: Path) -> dict[str, str]:
    return {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def test_lm_eval_agrees_with_our_own_evaluation(
    make_run: Callable[..., Path],  # noqa: F811
    data: Manifest, source_folder: Path, tmp_path: Path, run_command: Run,
) -> None:  # fmt: skip
    texts = [whole_windows(Tokenizer(data.tokenizer_path), book(seed, 600)) for seed in (20, 21)]
    texts.append(book(22, 10).strip())  # shorter than a window
    data_set = held_out(texts, source_folder, tmp_path)
    folder = tmp_path / "export"
    export(make_run("maha"), folder)
    expected = [
        choice_loglikelihoods(folder, question["context"], [f" {choice}" for choice in question["choices"]])
        for question in QUESTIONS
    ]
    best = [found.index(max(found)) for found in expected]
    labels = [best[0], best[1], (best[2] + 1) % len(expected[2])]  # so that two of three choices are as labelled
    questions = [{**question, "label": label} for question, label in zip(QUESTIONS, labels, strict=True)]

    done = run_command(
        "-m", "eval.harness", "--checkpoint", folder, "--tasks", "own_perplexity,own_choice",
        "--include_path", tasks(tmp_path / "tasks", texts, questions), "--output_path", tmp_path / "out",
        "--batch_size", 4, "--log_samples", **offline(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(result.read_text())["results"]

    ours = evaluate(folder, SplitOfData(data_set, "test"), context=CONTEXT, stride=CONTEXT).score
    theirs = results["own_perplexity"]
    assert ours.tokens > 2 * CONTEXT
    assert theirs["word_perplexity,none"] == pytest.approx(ours.word_perplexity, rel=1e-5)
    assert theirs["bits_per_byte,none"] == pytest.approx(ours.bits_per_byte, rel=1e-6)

    answers = [sample["resps"] for sample in samples(tmp_path / "out", "own_choice")]
    for answer, found in zip(answers, expected, strict=True):
        assert [float(response[0][0]) for response in answer] == pytest.approx(found, rel=1e-5)
    assert results["own_choice"]["acc,none"] == pytest.approx(2 / 3)


def test_our_own_tasks_agree_with_our_own_evaluation(
    make_run: Callable[..., Path],  # noqa: F811
    data: Manifest, source_folder: Path, tmp_path: Path, run_command: Run,
) -> None:  # fmt: skip
    context, folder = 192, tmp_path / "export"
    export(make_run("maha", context=context), folder)
    tokenizer = Tokenizer(data.tokenizer_path)
    data_set = held_out(
        [whole_windows(tokenizer, book(seed, 500), context) for seed in (20, 21)], source_folder, tmp_path
    )

    done = run_command(
        "-m", "eval.harness", "--checkpoint", folder, "--tasks", "maha_recall,maha_perplexity", "--metadata",
        f"data={data_set.folder}", "documents=3", "choices=3", "--output_path", tmp_path / "out", "--log_samples",
        **offline(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(result.read_text())["results"]
    ours = evaluate(folder, SplitOfData(data_set, "test"), context=context, stride=context).score
    assert ours.tokens > 2 * context
    assert results["maha_perplexity"]["word_perplexity,none"] == pytest.approx(ours.word_perplexity, rel=1e-5)
    assert results["maha_perplexity"]["bits_per_byte,none"] == pytest.approx(ours.bits_per_byte, rel=1e-6)
    for task in ("maha_needle", "maha_induction", "maha_variables", "maha_copying", "maha_multiquery"):
        right = []
        for sample in samples(tmp_path / "out", task):
            doc = sample["doc"]
            expected = choice_loglikelihoods(folder, doc["text"], doc["choices"])
            assert [float(response[0][0]) for response in sample["resps"]] == pytest.approx(expected, rel=1e-5)
            right.append(expected.index(max(expected)) == doc["label"])
        assert len(right) == 3
        assert results[task]["acc,none"] == results[task][f"acc_{context},none"] == pytest.approx(sum(right) / 3)


def test_lm_eval_itself_takes_our_tasks_and_a_text_file(
    make_run: Callable[..., Path],  # noqa: F811
    tmp_path: Path, run_command: Run,
) -> None:  # fmt: skip
    folder, text = tmp_path / "export", tmp_path / "new.txt"
    export(make_run("maha", context=192), folder)
    text.write_text(book(30, 500))
    done = run_command(
        "-m", "lm_eval", "run", "--model", "hf", "--model_args",
        f"pretrained={folder},trust_remote_code=True,add_bos_token=False,dtype=float32", "--device", "cpu",
        "--include_path", FOLDER, "--tasks", "maha_needle,maha_perplexity", "--metadata", f"data={text}", "documents=2",
        "--output_path", tmp_path / "out", **offline(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(result.read_text())["results"]
    ours = evaluate(folder, TextFile(text), context=192, stride=192).score
    assert results["maha_perplexity"]["word_perplexity,none"] == pytest.approx(ours.word_perplexity, rel=0.02)
    assert 0 < results["maha_needle"]["prob,none"] < 1


@pytest.mark.parametrize("content", ["\u5929\u5730\u7384\u9ec3" * 100, " \n" * 40], ids=["without spaces", "blank"])
def test_text_without_words_has_all_measures_but_that_of_words(
    make_run: Callable[..., Path],  # noqa: F811
    content: str, tmp_path: Path, run_command: Run,
) -> None:  # fmt: skip
    folder, text = tmp_path / "export", tmp_path / "new.txt"
    export(make_run("maha"), folder)
    text.write_text(content, encoding="utf-8")
    done = run_command(
        "-m", "eval.harness", "--checkpoint", folder, "--tasks", "maha_perplexity", "--metadata", f"data={text}",
        "--output_path", tmp_path / "out", **offline(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(result.read_text())["results"]["maha_perplexity"]
    ours = evaluate(folder, TextFile(text), context=CONTEXT, stride=CONTEXT).score
    assert ours.word_perplexity is None
    assert math.isnan(found["word_perplexity,none"])
    assert found["bits_per_byte,none"] == pytest.approx(ours.bits_per_byte, rel=0.05)
    assert found["byte_perplexity,none"] == pytest.approx(2 ** found["bits_per_byte,none"])


def test_mistakes_are_one_line_and_status_2(
    make_run: Callable[..., Path],  # noqa: F811
    tmp_path: Path, run_command: Run, assert_user_error: Callable[..., None],
) -> None:  # fmt: skip
    run, folder = make_run("maha"), tmp_path / "export"
    export(run, folder)
    assert_user_error(run_command("-m", "eval.harness", "--checkpoint", run, "--tasks", "a"), "is no export; make one")
    done = run_command("-m", "eval.harness", "--checkpoint", folder, "--tasks", "no_such_task", HF_HUB_OFFLINE="1")
    assert_user_error(done, "Tasks not found: no_such_task")
    done = run_command("-m", "eval.harness", "--checkpoint", folder, "--tasks", "maha_needle", HF_HUB_OFFLINE="1")
    assert_user_error(done, "no text to search in; give --metadata data=PATH")
