"""`prepare --tokenizer`: an existing tokenizer instead of a trained one, of either kind, wherever it lies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, Tokenizer, UserError, read_documents
from data_pipeline.merge import merge
from data_pipeline.prepare import prepare
from data_pipeline.sources import Part, find_source
from data_pipeline.tokenizer import find_tokenizer
from data_pipeline.tokenizer_fit import warnings_of_fit
from tests.conftest import Run, book

Check = Callable[..., None]
WITHOUT_MARKER = st.text().filter(lambda text: "\u2581" not in text)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.fixture(scope="module")
def falling_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.json` as Llama 2 has it: U+2581 for spaces, bytes for unknown characters, a template that begins."""
    tokenizers = pytest.importorskip("tokenizers")
    decoders, names = tokenizers.decoders, [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=[*special, *names], show_progress=False)
    tokenizer.train_from_iterator([book(seed, 500) for seed in range(3)], trainer)
    template = tokenizers.processors.TemplateProcessing
    tokenizer.post_processor = template(single="<s> $A", special_tokens=[("<s>", 1)])
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] in special]
    file = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


def test_the_same_tokenizer_file_gives_the_same_bytes(
    data: Manifest, source_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    command = ("-m", "data_pipeline.prepare", "--source", source_folder, "--shard-tokens", 9000, "--workers", 1)
    command = (*command, "--tokenizer", data.folder, "--out", tmp_path / "set")
    result = run_command(*command)
    assert result.returncode == 0, result.stderr
    assert "training a tokenizer" not in result.stderr
    assert contents(tmp_path / "set").keys() == contents(data.folder).keys() - {".verified.json"}
    assert all(value == contents(data.folder)[name] for name, value in contents(tmp_path / "set").items())
    made = Manifest.load(tmp_path / "set")
    assert made.request == data.request | {"tokenizer": data.tokenizer_sha256}
    assert (made.fingerprint, made.splits) == (data.fingerprint, data.splits)


def test_a_json_tokenizer_makes_the_documents_of_its_library(
    json_data: Manifest, json_tokenizer: Path, source_folder: Path
) -> None:
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(json_tokenizer))
    assert (json_data.folder / "tokenizer.json").read_bytes() == json_tokenizer.read_bytes()
    assert json_data.vocab_size == library.get_vocab_size()
    texts = [json.loads(line)["text"] for line in (source_folder / "test-00000.jsonl").read_text().splitlines()]
    for text, document in zip(texts, read_documents(json_data, "test"), strict=True):
        separator = library.token_to_id("<|endoftext|>")
        assert document.tokens.tolist() == [separator, *library.encode(text, add_special_tokens=False).ids]
    json_data.verify(again=True)


def test_the_begin_is_a_special_token_that_stands_before_a_text(falling_back: Path, tmp_path: Path) -> None:
    import tokenizers

    changed = tokenizers.Tokenizer.from_file(str(falling_back))
    template = tokenizers.processors.TemplateProcessing
    for single in ("<s> $A </s>", "$A </s>"):
        changed.post_processor = template(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
        changed.save(str(tmp_path / "tokenizer.json"))
        assert Tokenizer(tmp_path / "tokenizer.json").bos_id == 1


def test_characters_that_a_tokenizer_loses_are_one_line_of_warning(json_tokenizer: Path, tmp_path: Path) -> None:
    import tokenizers

    assert warnings_of_fit(Tokenizer(json_tokenizer), ["A \u03b1\n" * 50]) == []
    lower = tokenizers.Tokenizer.from_file(str(json_tokenizer))
    lower.normalizer = tokenizers.normalizers.Lowercase()
    lower.save(str(tmp_path / "tokenizer.json"))
    (line,) = warnings_of_fit(Tokenizer(tmp_path / "tokenizer.json"), ["Abcd" * 50, "efgh" * 50])
    assert line.startswith("the tokenizer loses 12.5% of the characters of the first texts")


def test_parts_and_another_start_work_as_with_a_trained_one(
    json_data: Manifest, json_tokenizer: Path, source_folder: Path, data: Manifest, tmp_path: Path
) -> None:
    def made(name: str, tokenizer: Path | None, part: Part) -> Manifest:
        return prepare(find_source(str(source_folder)), tmp_path / name, 450, 1, 9000, part, tokenizer)

    parts = [made(f"part {number}", json_tokenizer, Part(number, 2)).folder for number in (1, 2)]
    whole = merge(parts, tmp_path / "set")
    assert (whole.folder / "manifest.json").read_bytes() == (json_data.folder / "manifest.json").read_bytes()
    assert whole.tokenizer_path.read_bytes() == json_tokenizer.read_bytes()
    assert made("set", json_tokenizer, Part()) == whole
    for other in (None, data.tokenizer_path):
        with pytest.raises(UserError, match=r"holds another data set .*tokenizer"):
            made("set", other, Part())


def test_a_tokenizer_is_found_in_data_sets_checkpoints_runs_and_folders_of_the_hub(
    data: Manifest, json_tokenizer: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for step, file in (("step-00000005", json_tokenizer), ("step-00000010", data.tokenizer_path)):
        folder = run / "checkpoints" / step
        folder.mkdir(parents=True)
        shutil.copy(file, folder)
    assert find_tokenizer(data.folder) == data.tokenizer_path
    assert find_tokenizer(run) == run / "checkpoints" / "step-00000010" / "tokenizer.model"
    assert find_tokenizer(run / "checkpoints" / "step-00000005").name == "tokenizer.json"
    assert find_tokenizer(json_tokenizer) == json_tokenizer
    shutil.copy(data.tokenizer_path, tmp_path)
    shutil.copy(json_tokenizer, tmp_path)
    assert find_tokenizer(tmp_path) == tmp_path / "tokenizer.json"


@pytest.fixture(scope="module")
def both(json_tokenizer: Path, falling_back: Path) -> list[Tokenizer]:
    return [Tokenizer(json_tokenizer), Tokenizer(falling_back)]


@settings(max_examples=40)
@given(text=WITHOUT_MARKER)
def test_the_bytes_of_tokens_are_those_of_the_text(both: list[Tokenizer], text: str) -> None:
    for tokenizer in both:
        ids = tokenizer.encode(text)
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
        assert tokenizer.decode(ids) == text
        assert all(tokenizer.pieces(ids))
        assert tokenizer.encode_all([text, "", "<s> a"]) == [ids, *map(tokenizer.encode, ["", "<s> a"])]


def test_special_tokens_written_out_are_text(both: list[Tokenizer]) -> None:
    for tokenizer, written in zip(both, ("a<|endoftext|>b", "a<s>b</s>"), strict=True):
        ids = tokenizer.encode(written)
        assert tokenizer.bos_id not in ids
        assert tokenizer.decode(ids) == written
        assert tokenizer.token_bytes(tokenizer.bos_id) == b""
    assert [both[1].name(number) for number in (0, 1)] == ["<unk>", "<s>"]
    assert (both[1].bos_id, both[1].unk_id) == (1, 0)


def test_mistakes_are_one_line(
    source_folder: Path,
    data: Manifest,
    json_tokenizer: Path,
    tmp_path: Path,
    run_command: Run,
    assert_user_error: Check,
) -> None:
    command = ("-m", "data_pipeline.prepare", "--source", source_folder, "--out", tmp_path / "out")
    assert_user_error(
        run_command(*command, "--tokenizer", data.folder, "--vocab-size", 512),
        "--vocab-size is that of the --tokenizer",
    )
    assert_user_error(
        run_command(*command, "--tokenizer", source_folder), "holds no tokenizer.model and no tokenizer.json"
    )
    with pytest.raises(UserError, match="does not exist"):
        find_tokenizer(tmp_path / "none")
    values = json.loads(json_tokenizer.read_text(encoding="utf-8"))
    values["model"]["dropout"] = 0.1
    (tmp_path / "random.json").write_text(json.dumps(values), encoding="utf-8")
    values["model"]["dropout"] = None
    values["added_tokens"][0]["content"] = "<|other|>"
    values["model"]["vocab"]["<|other|>"] = values["model"]["vocab"].pop("<|endoftext|>")
    (tmp_path / "nameless.json").write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "broken.json").write_text("{}")
    for name, message in (
        ("nameless", "has no special token that documents could begin"),
        ("broken", "is no tokenizer"),
        ("random", "drops merges at random"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            Tokenizer(tmp_path / f"{name}.json")
        assert "\n" not in str(raised.value)
    values["added_tokens"][0]["content"] = "[CLS]"
    values["model"]["vocab"]["[CLS]"] = values["model"]["vocab"].pop("<|other|>")
    values["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (tmp_path / "words.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match="are not parts of the text"):
        Tokenizer(tmp_path / "words.json").token_bytes(5)
    assert not (tmp_path / "out").exists()


def test_without_its_library_a_json_tokenizer_is_one_line(
    json_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match="pip install tokenizers"):
        Tokenizer(json_tokenizer)
