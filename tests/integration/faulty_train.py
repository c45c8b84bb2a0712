"""pretrain.train with faults put into the model: python -m torch.distributed.run ... -m tests.integration.faulty_train

FAULTS is JSON: a list of [kind, rank, attempt], the attempts at a step counted from 0; the kinds are nan_loss,
inf_gradient, spike and slow.
"""

import json
import os
import time
from typing import Any

from maha_model import CausalLM
from pretrain import train

_forward = CausalLM.forward
_faults = {(rank, attempt): kind for kind, rank, attempt in json.loads(os.environ["FAULTS"])}
_micro_batches_per_step = int(os.environ["MICRO_BATCHES_PER_STEP"])
_calls = 0


def forward(self: CausalLM, input_ids: Any, targets: Any = None) -> Any:
    global _calls
    out = _forward(self, input_ids, targets)
    if not self.training or input_ids.is_meta:  # meta: the count of a step's operations
        return out
    attempt, micro_batch = divmod(_calls, _micro_batches_per_step)
    _calls += 1
    kind = _faults.get((int(os.environ["RANK"]), attempt)) if micro_batch == 0 else None
    if kind == "nan_loss":
        return out._replace(loss=out.loss * float("nan"))
    if kind == "spike":
        return out._replace(loss=out.loss + 20)
    if kind == "slow":
        time.sleep(0.5)
    if kind == "inf_gradient":
        out.loss.register_hook(lambda gradient: gradient * float("inf"))
    return out


def main() -> None:
    CausalLM.forward = forward  # type: ignore[method-assign]
    train.main()


if __name__ == "__main__":
    main()
