"""A tiny run as training leaves it: real checkpoints through the writer, a real metrics file, no launcher."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline import Manifest
from maha_model import AggregationConfig, CausalLM, ModelConfig
from pretrain.callbacks.metrics_file import MetricsFile
from pretrain.checkpoint import CheckpointInfo, save_checkpoint, whole_pieces

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """make_run(attention, seed) -> RUN holding a checkpoint of a small random model and some history."""

    def make(
        attention: str,
        d_ff: int = 24,
        tokens: int = 640,
        seed: int = 0,
        on: Manifest = data,
        context: int = 32,
        **settings: Any,
    ) -> Path:
        """`settings` of the model or, by their names, of its aggregation."""
        of_aggregation = {f.name for f in fields(AggregationConfig)}
        aggregation = AggregationConfig(**{name: settings.pop(name) for name in of_aggregation & settings.keys()})
        run = tmp_path_factory.mktemp("run") / attention
        config = ModelConfig(
            vocab_size=on.vocab_size, context_length=context, d_model=16, num_layers=2, num_heads=2, d_ff=d_ff,
            attention=attention, span=8, num_scales=3, init_std=0.3, aggregation=aggregation, **settings,
        )  # fmt: skip
        torch.manual_seed(seed)
        weights = {name: p.detach().clone() for name, p in CausalLM(config).named_parameters()}
        info = CheckpointInfo(5, 20, tokens, seed, config.to_dict(), on.fingerprint, on.tokenizer_sha256)
        save_checkpoint(run, info, whole_pieces(weights, {}), on.tokenizer_path, keep=1)
        metrics = MetricsFile(run, 0)
        layer = {"mean": [0.5, 0.3, 0.2], "entropy": 0.9, "zeros": 0.1}
        for step in range(1, 6):
            metrics.log(step, loss=6.0 - 0.2 * step + 0.1 * seed, peak_memory_bytes=2**30)
        metrics.log(5, eval_loss=5.1, scale_weights=[layer, layer] if attention == "maha" else [])
        return run

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors as small as in recall's tests are slower on several threads, on a busy machine by far."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
