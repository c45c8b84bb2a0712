"""The peers train the very model that this package does: as many parameters, the same logits from the same weights."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline import Manifest, UserError
from eval.bench.peers import train_transformers
from eval.bench.peers.job import LITGPT, LLAMA, WINDOWS, Job, check_comparable, make_job
from maha_model import CausalLM
from pretrain.batches import TrainingBatches
from pretrain.distributed import Rank
from pretrain.session import parse_config

OPTIONS = [
    "--model.attention=standard", "--model.context_length=48", "--model.d_model=32", "--model.num_layers=2",
    "--model.num_heads=4", "--model.d_ff=40", "--model.vocab_size=512", "--optimizer.schedule=constant",
    "--optimizer.warmup_steps=0", "--optimizer.weight_decay=0", "--global_batch_size=4", "--micro_batch_size=2",
]  # fmt: skip


def build_litgpt(job: Job, weights: Path) -> Any:
    from eval.bench.peers import train_litgpt

    return train_litgpt.build(json.loads(json.dumps(dataclasses.asdict(job))), torch.load(weights))[0]


Build = Callable[[Job, Path], Any]
BUILDERS: dict[str, Build] = {LLAMA: train_transformers.build}
if importlib.util.find_spec("litgpt"):
    BUILDERS[f"{LITGPT}/lit_model.pth"] = build_litgpt


def test_peers_have_as_many_parameters_and_the_same_logits(data: Manifest, tmp_path: Path) -> None:
    config = parse_config([*OPTIONS, f"--data={data.folder}"])
    job = make_job(tmp_path, config, OPTIONS, 1, 1, 1)
    torch.manual_seed(config.seed)
    ours = CausalLM(config.model)
    ids = torch.load(tmp_path / WINDOWS)[:, :-1]
    for weights, build in BUILDERS.items():
        peer = build(job, tmp_path / weights)
        assert sum(parameter.numel() for parameter in peer.parameters()) == ours.num_parameters()
        logits = peer(ids)
        torch.testing.assert_close(getattr(logits, "logits", logits), ours(ids).logits, rtol=1e-4, atol=1e-5)


def test_peers_get_the_windows_of_a_run_in_its_order(data: Manifest, tmp_path: Path) -> None:
    config = parse_config([*OPTIONS, f"--data={data.folder}"])
    job = make_job(tmp_path, config, OPTIONS, 1, 2, 1)
    windows = torch.load(tmp_path / WINDOWS)
    batches = TrainingBatches(data, config, Rank(0, 1, torch.device("cpu"), None))  # type: ignore[arg-type]
    for step in range(job.steps):
        for number, (ids, targets, *_) in enumerate(batches(step * job.global_batch, job.global_batch)):
            start = step * job.global_batch + number * job.micro_batch
            mine = windows[start : start + job.micro_batch]
            assert torch.equal(mine[:, :-1], ids)
            assert torch.equal(mine[:, 1:], targets)
    assert len(windows) == job.steps * job.global_batch


@pytest.mark.parametrize(
    "option",
    [
        "--model.attention=maha", "--model.ffn=gelu", "--model.recency=1", "--optimizer.weight_decay=0.1",
        "--optimizer.name=muon", "--model.base_width=16", "--precision=bfloat16", "--packing=documents",
        "--document_mask=true",
    ],
)  # fmt: skip
def test_what_the_peers_lack_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=r"the peers .*; (give one of|leave it out)"):
        check_comparable(parse_config([*OPTIONS, option]))
