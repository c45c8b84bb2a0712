"""Every reader of files, fed damage: it reads, or ends in a UserError of one line, soon and in bounded memory."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, Tokenizer, UserError
from data_pipeline.document_table import read_facts
from data_pipeline.indexed_dataset import IndexedDataset
from maha_model import CausalLM
from pretrain.checkpoint import CheckpointTensors, load_model, read_info, sealed, verify_checkpoint
from tests.pretrain.checkpoint.test_store import CONFIG, save

FUZZ = settings(
    max_examples=40, deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LARGEST = 64 * 2**20


def damaged(content: bytes, kind: str, at: float, junk: bytes) -> bytes:
    """`content` replaced, cut, or overwritten at a share of its length; headers come first, so half go there."""
    place = int(at * len(content)) if at > 0.5 else int(at * min(200, len(content)))
    if kind == "replace":
        return junk
    if kind == "cut":
        return content[:place]
    return content[:place] + junk + content[place + len(junk) :]


damage = st.tuples(
    st.sampled_from(["replace", "cut", "overwrite"]), st.floats(0, 1), st.binary(min_size=1, max_size=64)
)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What torch imports for the first model on the device `meta` takes more than the limit."""
    with torch.device("meta"):
        CausalLM(CONFIG)


def survives(read: Callable[[], object]) -> None:
    tracemalloc.start()
    try:
        read()
    except UserError:
        pass  # which every command prints as one line
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < LARGEST


@pytest.mark.parametrize(
    "name", ["train-00000.idx", "train-00000.bin", "train-00000.arrow", "manifest.json", "tokenizer.model"]
)
@given(how=damage)
@FUZZ
def test_a_data_set(name: str, how: tuple[str, float, bytes], data: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    if not folder.exists():
        shutil.copytree(data.folder, folder)
    (folder / name).write_bytes(damaged((data.folder / name).read_bytes(), *how))

    def read() -> None:
        if name == "train-00000.arrow":
            list(read_facts(folder / "train-00000"))
        elif name == "tokenizer.model":
            Tokenizer(folder / name).encode("a few words")
        elif name != "manifest.json":
            _ = IndexedDataset(folder / "train-00000").lengths
        Manifest.load(folder).verify()

    survives(read)


def fresh_checkpoint(run: Path, data: Manifest) -> Path:
    """In a folder that holds no other: hypothesis calls a test many times in one `tmp_path`."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return save(run, data, 1)[0]


def read_moments(path: Path) -> None:
    tensors = CheckpointTensors(path)
    for name in tensors.shapes:
        tensors.whole(name, "exp_avg")


@pytest.mark.parametrize("name", ["checkpoint.json", "rank-00000-of-00001.safetensors", "tokenizer.model"])
@given(how=damage)
@FUZZ
def test_a_checkpoint(name: str, how: tuple[str, float, bytes], data: Manifest, tmp_path: Path) -> None:
    path = fresh_checkpoint(tmp_path, data)
    (path / name).write_bytes(damaged((path / name).read_bytes(), *how))
    for read in (verify_checkpoint, read_info, load_model, read_moments):
        survives(lambda read=read: read(path))


values = st.one_of(
    st.none(), st.integers(-(2**70), 2**70), st.text(max_size=9), st.just("../../x"), st.floats(),
    st.lists(st.integers(), max_size=2), st.booleans(), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def mutate(tree: Any, choose: Callable[[int], int], value: Any) -> None:
    """Put `value` in place of a node somewhere in a JSON tree."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = keys[choose(len(keys))]
        if not (isinstance(tree[key], dict | list) and tree[key] and choose(4)):
            tree[key] = value
            return
        tree = tree[key]


@given(draw=st.data())
@FUZZ
def test_a_manifest_whose_values_are_wrong(draw: st.DataObject, data: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    if not folder.exists():
        shutil.copytree(data.folder, folder)
    tree = json.loads((data.folder / "manifest.json").read_bytes())
    mutate(tree, lambda n: draw.draw(st.integers(0, n - 1)), draw.draw(values))
    (folder / "manifest.json").write_text(json.dumps(tree))
    survives(lambda: Manifest.load(folder).verify())


@given(draw=st.data())
@FUZZ
def test_a_checkpoint_index_that_is_sealed_but_wrong(draw: st.DataObject, data: Manifest, tmp_path: Path) -> None:
    path = fresh_checkpoint(tmp_path, data)
    tree = json.loads((path / "checkpoint.json").read_bytes())
    mutate(tree, lambda n: draw.draw(st.integers(0, n - 1)), draw.draw(values))
    (path / "checkpoint.json").write_text(json.dumps(sealed(tree)))
    for read in (verify_checkpoint, read_info, load_model):
        survives(lambda read=read: read(path))
