"""What one rank writes of a checkpoint: its share of weights and moments, copied to the host, in a file of its own.

(torch.distributed.checkpoint's writer of safetensors holds the share twice while it writes it, exchanges pickled plans
in collectives, and leaves no index: every reader would open every rank's file.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from data_pipeline.files import sha256_of, sync
from pretrain.checkpoint.format import MOMENTS, MUON_MOMENTS, stored_name
from pretrain.checkpoint.retry import as_os_error, retried

BLOCK = 2**26
"""Bytes of host memory that are taken at once: the allocator of pinned memory rounds up to a power of two."""


@dataclass(frozen=True)
class Piece:
    """A range of one parameter's elements."""

    name: str
    shape: Sequence[int]
    """Of the whole parameter."""
    start: int
    """The range's first element in the parameter as a flat row."""
    values: Sequence[Tensor]
    """Weights, and the moments in the order of `moments` (or none): flat, float32, equally long."""
    moments: Sequence[str] = MOMENTS
    """Their names."""


@dataclass(frozen=True)
class Part:
    """A rank's file, once it is written."""

    name: str
    bytes: int
    sha256: str
    shapes: dict[str, list[int]]
    """Of the parameters of which it has elements."""
    ranges: list[tuple[str, int, int]]
    """Parameter, first element, number of elements."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def whole_pieces(weights: dict[str, Tensor], moments: dict[str, Tensor]) -> list[Piece]:
    """One piece for each parameter; `moments` by "NAME.exp_avg" and so on, or none at all."""
    pieces = []
    for name, weight in weights.items():
        keys = tuple(key for key in (*MOMENTS, *MUON_MOMENTS) if stored_name(name, key) in moments)
        values = [weight.flatten(), *(moments[stored_name(name, key)].flatten() for key in keys)]
        pieces.append(Piece(name, weight.shape, 0, values, keys))
    return pieces


def stage(pieces: Iterable[Piece], pinned: bool = False) -> list[Piece]:
    """Copies on the host, which later steps do not change; long pieces are cut. Takes the share's bytes and a block
    for each number of moments."""
    staged: list[Piece] = []
    free: dict[int, torch.Tensor] = {}  # what is left of the last block for pieces of so many rows
    for piece in pieces:
        height = len(piece.values)
        done, total = 0, piece.values[0].numel()
        while done < total:
            if height not in free or free[height].shape[1] == 0:
                free[height] = torch.empty(height, BLOCK // 4 // height, pin_memory=pinned)
            count = min(free[height].shape[1], total - done)
            rows, free[height] = free[height][:, :count], free[height][:, count:]
            for row, value in zip(rows, piece.values, strict=True):
                row.copy_(value.detach()[done : done + count], non_blocking=pinned)
            staged.append(Piece(piece.name, piece.shape, piece.start + done, list(rows), piece.moments))
            done += count
    if pinned:
        torch.cuda.synchronize()
    return staged


def write_part(folder: Path, name: str, pieces: list[Piece]) -> Part:
    """Write pieces on the host as `folder / name`, durable. Raises OSError."""
    arrays = {
        f"{stored_name(piece.name, moment)}@{piece.start}": value.numpy()
        for piece in pieces
        for moment, value in zip(("", *piece.moments), piece.values, strict=False)
    }
    entry = write_arrays(folder / name, arrays)
    shapes = {piece.name: list(piece.shape) for piece in pieces}
    ranges = [(piece.name, piece.start, piece.values[0].numel()) for piece in pieces]
    return Part(name, **entry, shapes=shapes, ranges=ranges)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write a file of safetensors, durable; its "bytes" and "sha256". Raises OSError."""

    def write() -> dict[str, Any]:
        try:
            safetensors.numpy.save_file(arrays, path, {"format": "pt"})
        except safetensors.SafetensorError as error:
            raise as_os_error(error, path) from error
        path.chmod(path.parent.stat().st_mode & 0o666)  # the library's is its owner's alone
        return _durable(path)

    return retried(write, path)


def write_bytes(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file, durable; its "bytes" and "sha256". Raises OSError."""

    def write() -> dict[str, Any]:
        path.write_bytes(content)
        return _durable(path)

    return retried(write, path)


def _durable(path: Path) -> dict[str, Any]:
    """A file's "bytes" and "sha256", as the index has them, once it is on disk."""
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def located(parts: list[Part]) -> dict[str, dict[str, Any]]:
    """For the index, by parameter: its "shape", and "pieces" (number of the part, first element, elements) in order.

    Raises:
        RuntimeError: where the parts do not have every element of a parameter once.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(parts):
        for name, start, count in part.ranges:
            tensors.setdefault(name, {"shape": part.shapes[name], "pieces": []})["pieces"].append(
                [number, start, count]
            )
    for name, entry in tensors.items():
        entry["pieces"].sort(key=lambda piece: piece[1])
        end = 0
        for _, start, count in entry["pieces"]:
            if start != end:
                raise RuntimeError(f"the ranks' parts of {name} do not meet at element {start}")
            end += count
        if end != prod(entry["shape"]):
            raise RuntimeError(f"the ranks' parts of {name} have {end} of {prod(entry['shape'])} elements")
    return tensors
