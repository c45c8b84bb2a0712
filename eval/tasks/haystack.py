"""The tokens that needles are hidden in: a prepared data set's, a text file's bytes, or random ones."""

import functools

import numpy as np
import torch
from torch import Tensor

from data_pipeline import Manifest, UserError, user_path
from data_pipeline.manifest import MANIFEST

_BYTES = 256
_MOST = 2**24
"""Tokens of a data set that are read, from its begin: more than a training on needles reads twice."""


@functools.cache
def read_haystack(path: str) -> tuple[Tensor, int]:
    """Tokens (n,) int32 in their order on the CPU, and the number of token ids.

    Args:
        path: a prepared data set, of which the train split is taken, or a file, whose bytes are its tokens.

    Raises:
        UserError: if it is neither, or a data set without a train split.
    """
    place = user_path(path)
    if (place / MANIFEST).is_file():
        manifest = Manifest.load(place)
        parts, found = [], 0
        for shard in manifest.open_shards("train"):
            parts.append(np.asarray(shard.tokens[: _MOST - found], dtype=np.int32))
            found += len(parts[-1])
        return torch.from_numpy(np.concatenate(parts)), manifest.vocab_size
    if not place.is_file():
        raise UserError(f"haystack {path} is neither a file nor a prepared data set; give one of them, or leave it out")
    return torch.from_numpy(np.fromfile(place, dtype=np.uint8, count=_MOST).astype(np.int32)), _BYTES


def random_haystack(size: int, length: int, words: int, generator: torch.Generator) -> Tensor:
    """Independent tokens (size, length) int64 below `words`, token i with a probability in proportion to 1/(i + 1)."""
    zipf = 1 / torch.arange(1.0, words + 1, device=generator.device)
    return zipf.multinomial(size * length, replacement=True, generator=generator).view(size, length)


@functools.lru_cache(maxsize=4)
def on_device(path: str, device: torch.device) -> Tensor:
    """The tokens of `read_haystack`, kept on a device."""
    return read_haystack(path)[0].to(device)
