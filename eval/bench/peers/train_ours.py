"""This package's trainer in the comparison: python -m eval.bench.peers.train_ours JOB RESULT [--compile]"""

import sys
from pathlib import Path

import torch

from eval.bench.peers.job import WINDOWS, Job, wait_for_turn, write_result
from maha_model import CausalLM
from pretrain.session import parse_config, training_session


def main() -> None:
    """Train a job, waiting before every turn; write its result."""
    folder, result, *compiled = sys.argv[1:]
    job = Job.load(Path(folder))
    options = [*job.config, "--compile", "true"] if compiled else job.config
    first = torch.load(Path(folder, WINDOWS))[: job.micro_batch]
    with training_session(parse_config([*options, "--out", f"{result}.run"])) as trainer:

        def loss() -> float:
            model: CausalLM = trainer.engine.module
            with torch.no_grad():
                found = model.forward(first[:, :-1], first[:, 1:]).loss
            assert found is not None
            return found.item()

        losses = [loss()]
        for step in range(job.steps):
            if job.waits_before(step):
                wait_for_turn()
            trainer.train_step()
        wait_for_turn()
        write_result(Path(result), trainer.engine.module, [*losses, loss()])
        trainer.finish()


if __name__ == "__main__":
    main()
