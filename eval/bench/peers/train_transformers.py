"""transformers' Trainer in the comparison: python -m eval.bench.peers.train_transformers JOB RESULT [--compile]"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from eval.bench.peers.job import LLAMA, WINDOWS, Job, wait_for_turn, write_result


class Turns(TrainerCallback):
    """Wait before every turn."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After an optimiser step; `state.global_step` have been made."""
        if self._job.waits_before(state.global_step):
            wait_for_turn()


def build(job: Job, weights: Path) -> Any:
    """The job's model with the weights to start from."""
    config = LlamaConfig(
        vocab_size=job.vocab_size, hidden_size=job.d_model, intermediate_size=job.d_ff,
        num_hidden_layers=job.num_layers, num_attention_heads=job.num_heads, max_position_embeddings=job.context,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": job.rope_base},
        tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.load_state_dict(torch.load(weights))
    return model


def collate(windows: list[Tensor]) -> dict[str, Tensor]:
    """Of every window (N + 1) the ids and, as labels that are not shifted again, the tokens after them."""
    batch = torch.stack(windows)
    targets = batch[:, 1:].contiguous()  # its loss takes no other
    return {"input_ids": batch[:, :-1], "labels": targets, "shift_labels": targets}


def main() -> None:
    """Train a job, waiting before every turn; write its result."""
    folder, result, *compiled = sys.argv[1:]
    job, windows = Job.load(Path(folder)), torch.load(Path(folder, WINDOWS))
    model = build(job, Path(folder, LLAMA))
    arguments = TrainingArguments(
        output_dir=f"{result}.run", use_cpu=True, torch_compile=bool(compiled), max_steps=job.steps,
        per_device_train_batch_size=job.micro_batch, gradient_accumulation_steps=job.global_batch // job.micro_batch,
        learning_rate=job.lr, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=job.clip,
        adam_beta1=job.betas[0], adam_beta2=job.betas[1], adam_epsilon=job.eps, train_sampling_strategy="sequential",
        remove_unused_columns=False, logging_steps=job.steps, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, collate, train_dataset=list(windows), callbacks=[Turns(job)])
    first = collate(list(windows[: job.micro_batch]))

    def loss() -> float:
        with torch.no_grad():
            return float(model.forward(**first).loss)

    losses = [loss()]
    trainer.train()
    write_result(Path(result), model, [*losses, loss()])


if __name__ == "__main__":
    main()
