"""litgpt's pretraining in the comparison: python -P eval/bench/peers/train_litgpt.py JOB RESULT

Imports nothing of this package: litgpt needs versions of libraries that this package does not take, so that it may be
in an environment of its own. litgpt compiles every model with torch.compile.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litgpt.pretrain
import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.model import GPT, Config
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset


class Windows(IterableDataset[Tensor]):
    """The job's windows in order; waits before the first of a turn, when the steps before are done."""

    def __init__(self, job: dict[str, Any], windows: Tensor) -> None:
        self._job, self._windows = job, windows

    def __iter__(self) -> Iterator[Tensor]:
        job = self._job
        for number, window in enumerate(self._windows):
            step, place = divmod(number, job["global_batch"])
            if place == 0 and step >= job["warm_up"] and (step - job["warm_up"]) % job["turn"] == 0:
                wait_for_turn()
            yield window
        wait_for_turn()  # (litgpt takes one batch more, and stops before it uses it)


class Micro(DataLoader[Tensor]):
    """Micro-batches (B, N + 1), without a place to go on from.

    A loader without these two methods is pickled into litgpt's checkpoint as it is; with them the file has tensors and
    numbers only, and is read without running what it holds.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


class Data(DataModule):
    """The windows as litgpt takes them."""

    def __init__(self, job: dict[str, Any], windows: Tensor) -> None:
        super().__init__()
        self._job, self._windows = job, windows

    def connect(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Micro-batches (B, N + 1)."""
        return Micro(Windows(self._job, self._windows), batch_size=self._job["micro_batch"])

    def val_dataloader(self) -> DataLoader[Tensor]:
        """One micro-batch, for the check at the start that litgpt always makes."""
        first: Any = self._windows[: self._job["micro_batch"]]
        return DataLoader(first, batch_size=len(first))


def wait_for_turn() -> None:
    """Announce that a turn is over, and return when the next begins."""
    print("\nready", flush=True)
    sys.stdin.readline()


def build(job: dict[str, Any], weights: dict[str, Tensor]) -> tuple[GPT, Config]:
    """The job's model with these weights, and its configuration."""
    config = Config(
        name="peer", block_size=job["context"], vocab_size=job["vocab_size"], padded_vocab_size=job["vocab_size"],
        n_layer=job["num_layers"], n_head=job["num_heads"], n_embd=job["d_model"], intermediate_size=job["d_ff"],
        rotary_percentage=1.0, rope_base=job["rope_base"], parallel_residual=False, bias=False, norm_eps=1e-6,
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
    )  # fmt: skip
    model = GPT(config)
    model.transformer.wte.weight = model.lm_head.weight
    model.load_state_dict(weights)
    return model, config


def main() -> None:
    """Train a job, waiting before every turn; write its result."""
    folder, result = Path(sys.argv[1]), Path(sys.argv[2])
    sys.argv[1:] = ["peer"]  # litgpt reads these again as its own where it saves
    job, windows = json.loads((folder / "job.json").read_text()), torch.load(folder / "windows.pt", weights_only=True)
    first = windows[: job["micro_batch"]]

    @torch.no_grad()
    def loss(model: GPT) -> float:
        logits = model(first[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), first[:, 1:].flatten()).item()

    model, config = build(job, torch.load(folder / "litgpt" / "lit_model.pth", weights_only=True))
    losses = [loss(model)]
    out = Path(f"{result}.run")
    steps = job["warm_up"] + job["turns"] * job["turn"]
    litgpt.pretrain.setup(
        "peer", config, out, precision="32-true", initial_checkpoint_dir=folder / "litgpt",
        data=Data(job, windows), devices=1, logger_name="csv",
        eval=EvalArgs(interval=steps + 1, final_validation=False),
        train=TrainArgs(
            save_interval=None, log_interval=steps, global_batch_size=job["global_batch"],
            micro_batch_size=job["micro_batch"], max_tokens=steps * job["global_batch"] * job["context"],
            max_seq_length=job["context"], tie_embeddings=True, max_norm=job["clip"], min_lr=job["lr"],
            lr_warmup_steps=0,
        ),
        optimizer={
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": job["lr"], "betas": job["betas"], "eps": job["eps"], "weight_decay": 0.0},
        },
    )  # fmt: skip
    model, _ = build(job, torch.load(out / "final" / "lit_model.pth", weights_only=True)["model"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result.write_text(json.dumps({"parameters": parameters, "losses": [*losses, loss(model)]}))


if __name__ == "__main__":
    main()
