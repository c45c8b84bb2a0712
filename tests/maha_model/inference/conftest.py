"""An export of a small random model, loaded by `transformers`."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_pipeline import Manifest
from maha_model import ModelConfig
from maha_model.huggingface import MAHAPreTrainedForCausalLM, MAHAPreTrainedTokenizer
from pretrain.export import export
from tests.pretrain.checkpoint.test_store import save


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Manifest) -> Path:
    """An export of a small random model over the data set's vocabulary."""
    out = tmp_path_factory.mktemp("hub")
    config = ModelConfig(
        vocab_size=data.vocab_size, context_length=32, d_model=16, num_layers=2, num_heads=2, d_ff=24, span=4,
        num_scales=3, init_std=0.3,
    )  # fmt: skip
    save(out / "run", data, 1, config=config)
    export(out / "run", out / "export")
    return out / "export"


@pytest.fixture(scope="module")
def model(folder: Path) -> MAHAPreTrainedForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> MAHAPreTrainedTokenizer:
    return AutoTokenizer.from_pretrained(folder)


def ids_of(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 500, shape, generator=torch.Generator().manual_seed(seed))
