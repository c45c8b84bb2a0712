"""What every trainer of the comparison is given: one model, one optimiser, the same windows in the same order."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline import UserError, WindowDataset, load_data, mixture_of
from eval.bench.peers.same_model import litgpt_weights, llama_weights
from maha_model import CausalLM
from pretrain.session import RunConfig

WINDOWS, LLAMA, LITGPT = "windows.pt", "llama.pt", "litgpt"
CPU_ONLY = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Job:
    """Sizes, optimiser and turns; files beside its `job.json` have the windows and the weights to start from."""

    config: list[str]
    """Options of `pretrain.train` for this package's own trainer; the other fields are the same in numbers."""
    vocab_size: int
    context: int
    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int
    rope_base: float
    global_batch: int
    micro_batch: int
    lr: float
    betas: tuple[float, float]
    eps: float
    clip: float
    warm_up: int
    """Steps before the first turn."""
    turn: int
    """Steps of a turn."""
    turns: int

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.warm_up + self.turns * self.turn

    @property
    def tokens(self) -> int:
        """Tokens of a turn."""
        return self.turn * self.global_batch * self.context

    def waits_before(self, step: int) -> bool:
        """Whether a turn ends or begins before this step, counted from 0."""
        return step >= self.warm_up and (step - self.warm_up) % self.turn == 0

    @classmethod
    def load(cls, folder: Path) -> "Job":
        """Read job.json."""
        return cls(**json.loads((folder / "job.json").read_text()))


def make_job(folder: Path, config: RunConfig, options: list[str], warm_up: int, turn: int, turns: int) -> Job:
    """Write into `folder` what the trainers need; `options` gave `config`, which is comparable, its model complete."""
    model, optimizer = config.model, config.optimizer
    job = Job(
        options, model.vocab_size, model.context_length, model.d_model, model.num_layers, model.num_heads, model.d_ff,
        model.rope_base, config.global_batch_size, config.micro_batch_size, optimizer.lr,
        (optimizer.beta1, optimizer.beta2), optimizer.eps, optimizer.grad_clip, warm_up, turn, turns,
    )  # fmt: skip
    (folder / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
    torch.save(ordered_windows(config, job.steps * job.global_batch), folder / WINDOWS)
    torch.manual_seed(config.seed)  # as the session does before it builds the model
    weights = CausalLM(model).state_dict()
    torch.save(llama_weights(weights, model), folder / LLAMA)
    (folder / LITGPT).mkdir()
    torch.save(litgpt_weights(weights, model), folder / LITGPT / "lit_model.pth")
    return job


def check_comparable(config: RunConfig) -> None:
    """Raises UserError unless the peers have the model, what transformers calls a Llama, and the optimiser."""
    form = {"attention": "standard", "norm": "rmsnorm", "ffn": "swiglu", "dropout": 0.0, "recency_height": 0.0}
    for name, value in form.items():
        if (given := getattr(config.model, name)) != value:
            raise UserError(f"the peers have no model of {name} {given}; give one of {name} {value}")
    if config.model.dilation and config.model.local_activation == "none":
        raise UserError("the peers have no local convolution; give a model of dilation 0")
    for name, value in {"name": "adamw", "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0}.items():
        if (given := getattr(config.optimizer, name)) != value:
            raise UserError(f"the peers are compared with optimizer.{name} {value}, not {given}; leave it out")
    others = {
        "model.base_width": (config.model.base_width, None), "precision": (config.precision, "float32"),
        "batch_warmup": (config.batch_warmup.steps, 0), "length_warmup": (config.length_warmup.steps, 0),
        "packing": (config.packing, "stream"), "document_mask": (config.document_mask, False),
    }  # fmt: skip
    if different := [name for name, (given, value) in others.items() if given != value]:
        raise UserError(f"the peers do without {different[0]}; leave it out")


def ordered_windows(config: RunConfig, samples: int) -> Tensor:
    """(samples, N + 1) int64: the training windows in the order of a run of this configuration, targets included."""
    mixture = mixture_of(load_data(config.data))
    sources = [WindowDataset(source, "train", config.model.context_length) for source in mixture.sources]
    order = mixture.order([len(windows) for windows in sources], config.seed)
    pairs = (sources[source][window] for source, window in (order[sample] for sample in range(samples)))
    return torch.stack([torch.tensor([*ids, targets[-1]]) for ids, targets in pairs])


def wait_for_turn() -> None:
    """Announce that a turn is over, and return when the next begins."""
    print("\nready", flush=True)
    sys.stdin.readline()


def write_result(path: Path, model: Any, losses: list[float]) -> None:
    """Parameters of a module, a tied matrix counted once, and its losses before and after training, in nats."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    path.write_text(json.dumps({"parameters": parameters, "losses": losses}))
