"""A run's folder as training leaves it: written by what writes it in training."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.callbacks.metrics_file import MetricsFile
from pretrain.callbacks.starts import write_start
from pretrain.callbacks.step_times import write_ranks
from pretrain.config import RunConfig

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder(name, steps) -> RUN with that many steps of 40, a spike, a skipped step, a restart, a straggler."""

    def make(name: str, steps: int = 20) -> Path:
        run = tmp_path / name
        run.mkdir()
        (run / "config.yaml").write_text(RunConfig(out=run, steps=40, global_batch_size=4).to_yaml())
        metrics = MetricsFile(run, 0)
        write_start(run, 0, 4)
        for step in range(1, steps + 1):
            values = {"loss": 8 - step / 10, "lr": 1e-3, "grad_norm": 1.5, "tokens": 100.0 * step}
            if step % 5 == 0:
                values |= {"tokens_per_s": 1024.0, "mfu": 0.25, "peak_memory_bytes": 2**31}
            metrics.log(step, **values)
        layers = [{"mean": [0.5, 0.3], "entropy": 0.5, "zeros": 0.0}, {"mean": [0.7, 0.1], "entropy": 0.5, "zeros": 0}]
        metrics.log(10, eval_loss=7.25, scale_weights=layers)
        metrics.log(11, spike=7.5)
        metrics.log(12, skipped="the loss is nan")
        metrics.log(12, changed={"optimizer.lr": [0.003, 0.001]})
        write_start(run, 10, 4)
        write_ranks(run, {rank: (f"node{rank // 2}", f"20 {0.2 + 0.3 * (rank == 3)}") for rank in range(4)})
        return run

    return make
