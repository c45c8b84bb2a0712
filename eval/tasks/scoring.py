"""How many predictions of a model are right, overall and by the distance of the evidence."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from eval.tasks.task import Batch, Task
from maha_model import CausalLM

_BUCKETS = 32


@dataclass(frozen=True)
class Share:
    """Right predictions of some targets."""

    right: int
    targets: int

    @property
    def accuracy(self) -> float:
        """Share of right ones."""
        return self.right / self.targets


@dataclass(frozen=True)
class Scores:
    """Right predictions by distance: at index i those whose evidence is 2**i to 2**(i+1) - 1 tokens back."""

    by_octave: dict[int, Share]

    @property
    def accuracy(self) -> float:
        """Share of right predictions at all distances."""
        shares = self.by_octave.values()
        return sum(share.right for share in shares) / sum(share.targets for share in shares)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from` and `to` are the least and the greatest distance of a bucket, in tokens."""
        by_distance = [
            {"from": 2**octave, "to": 2 ** (octave + 1) - 1, "accuracy": share.accuracy, **asdict(share)}
            for octave, share in self.by_octave.items()
        ]
        return {"accuracy": self.accuracy, "by_distance": by_distance}


def scored_logits(model: CausalLM, batch: Batch) -> Tensor:
    """Logits (B, K, V) at the scored positions, those of no others, in the weights' precision under autocast too.

    Of logits in bfloat16 several can be the greatest.
    """
    hidden_BND, _ = model.transformer(batch.ids)
    index_BKD = batch.positions.unsqueeze(-1).expand(-1, -1, hidden_BND.shape[-1])
    with torch.autocast(hidden_BND.device.type, enabled=False):
        return model.lm_head(hidden_BND.gather(1, index_BKD).to(model.lm_head.weight.dtype))


@torch.no_grad()
def score(model: CausalLM, task: Task, sequences: int, batch_size: int, seed: int) -> Scores:
    """Scores of a model, in its present mode and precision, on held-out sequences.

    They are made on the CPU, so that a seed gives the same ones on every device.
    """
    device = model.lm_head.weight.device
    generator = torch.Generator().manual_seed(seed)
    edges = 2 ** torch.arange(1, _BUCKETS, device=device)
    right, targets = (torch.zeros(_BUCKETS, dtype=torch.int64, device=device) for _ in range(2))
    for start in range(0, sequences, batch_size):
        made = task.batch(min(batch_size, sequences - start), generator)
        batch = Batch(*(x.to(device) for x in made))
        octaves = torch.bucketize(batch.distances.contiguous(), edges, right=True)
        is_right = scored_logits(model, batch).argmax(-1) == batch.targets
        targets += octaves.flatten().bincount(minlength=_BUCKETS)
        right += octaves[is_right].bincount(minlength=_BUCKETS)
    counted = zip(right.tolist(), targets.tolist(), strict=True)
    return Scores({octave: Share(*counts) for octave, counts in enumerate(counted) if counts[1]})
