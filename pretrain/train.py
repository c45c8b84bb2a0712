"""The training command: python -m pretrain.train [options], by itself or under deepspeed, torchrun or srun."""

import os
import sys

from maha_model import ConfigError
from pretrain.config import parse_config
from pretrain.distributed import rank_errors
from pretrain.session import training_session


def main() -> None:
    """The command; a mistake that several processes meet is printed once on each machine at most."""
    # the deepspeed launcher adds --local_rank, which we read from the environment
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    with rank_errors(ConfigError), training_session(parse_config(arguments)) as trainer:
        trainer.run()
    # All is written and closed. Finalising the interpreter while threads of gloo still hold tensors aborts the process
    # now and then (pytorch pull request 179291), and a launcher would take a finished run for a failed one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
