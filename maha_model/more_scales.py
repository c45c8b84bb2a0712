"""Weights of a model with more scales out of those of a trained one: a new coarse scale starts as the coarsest does.

A sequence that is too short for a token of a new scale is computed with the same operations on the same weights as
before, so its logits stay the same.
"""

from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor, nn


def source_of(name: str, trained: Container[str]) -> str | None:
    """The trained parameter that a model's parameter `name` starts from, or None: a fresh start.

    That is `name` itself or, where a list of the scales' modules is longer now, its last trained entry. There is none
    where the trained model had one scale and the new module stands between two.
    """
    if name in trained:
        return name
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    if len(numbers) < 2:  # (the first is the block's)
        return None
    for scale in reversed(range(int(parts[numbers[-1]]))):
        parts[numbers[-1]] = str(scale)
        if (earlier := ".".join(parts)) in trained:
            return earlier
    return None


def can_grow(trained: Sequence[int], shape: Sequence[int], scales: int) -> bool:
    """Whether a parameter of the shape `trained` has `shape` after `scales` > 0 more: more rows, as many for each."""
    rows, left = divmod(shape[0] - trained[0], scales)
    return list(shape[1:]) == list(trained[1:]) and left == 0 and 0 < rows <= trained[0]


def grown(weight: Tensor, rows: int, scales: int) -> Tensor:
    """A parameter (n, ...) that has rows for every scale, with those of the coarsest again: (rows, ...).

    Args:
        weight: the trained one: utilities, logits or raises of all scales, finest first.
        rows: how many there are with the new scales.
        scales: how many of them are new, at least 1.
    """
    each = (rows - len(weight)) // scales
    return torch.cat([weight, *[weight[-each:]] * scales])


@torch.no_grad()
def start_from(model: nn.Module, trained: Mapping[str, Tensor], scales: int) -> list[str]:
    """Copy trained weights into a model with so many more scales; the names of its parameters that start afresh.

    Raises:
        ValueError: if a parameter has a shape that the scales do not account for.
    """
    afresh = []
    for name, parameter in model.named_parameters():
        source = source_of(name, trained)
        if source is None:
            afresh.append(name)
        elif trained[source].shape == parameter.shape:
            parameter.copy_(trained[source])
        elif scales > 0 and can_grow(trained[source].shape, parameter.shape, scales):
            parameter.copy_(grown(trained[source], len(parameter), scales))
        else:
            raise ValueError(f"{name} is {list(parameter.shape)}, trained {list(trained[source].shape)}")
    return afresh
