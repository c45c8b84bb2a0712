"""Reading a checkpoint's tensors, or ranges of them, whatever ranks have written them."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from torch import Tensor

from data_pipeline import UserError
from pretrain.checkpoint.format import INDEX, OPTIMIZER, read_index, stored_name


class _Piece(NamedTuple):
    """Where some elements of a parameter are, as a flat row."""

    file: str
    suffix: str
    """Of the names in the file."""
    start: int
    elements: int


class CheckpointTensors:
    """Float32 weights and Adam's moments of a checkpoint. Files are mapped into memory, and only what is used is read.

    Verify the checkpoint first (`find_checkpoint`): damage inside a file of the right form is not seen here.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError if the index is damaged."""
        self._path = path
        self._open: dict[str, Any] = {}
        index = read_index(path)
        self._is_whole = "tensors" not in index
        self._is_export = self._is_whole and OPTIMIZER not in index["files"]
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of every parameter."""
        self._pieces: dict[str, list[_Piece]] = {}
        try:
            if self._is_whole:
                self._list_whole_tensors(index["files"])
            else:
                self._list_pieces(index["parts"], index["tensors"], index["files"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{path / INDEX} is damaged") from error

    def check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises UserError unless these are the parameters of a model of the checkpoint's configuration."""
        if {name: tuple(shape) for name, shape in shapes.items()} != self.shapes:
            raise UserError(f"{self._path / INDEX} is not of the model of its configuration")

    def check_moments(self) -> None:
        """Raises UserError if this is an export."""
        if self._is_export:
            raise UserError(
                f"{self._path} is an export, without the optimiser's state; continue from the run it was made of, or "
                "start a new run from its weights with --init_from"
            )

    def whole(self, name: str, moment: str = "") -> Tensor:
        """A parameter's weights, or one of its moments. Raises UserError if its file is damaged or missing."""
        shape = self.shapes[name]
        return self.read(name, 0, prod(shape), moment).view(shape)

    def read(self, name: str, start: int, count: int, moment: str = "") -> Tensor:
        """`count` elements from `start` on of the flat row of a parameter or moment.

        Raises:
            UserError: if a file is damaged or missing, or an export has no moments.
            IndexError: for elements beyond the parameter's end.
        """
        if start + count > prod(self.shapes[name]):
            raise IndexError(f"{name} has no elements {start} to {start + count}")
        if moment:
            self.check_moments()
        found = torch.empty(count)
        for piece in self._pieces[name]:
            first, end = max(start, piece.start), min(start + count, piece.start + piece.elements)
            if first < end:
                file = OPTIMIZER if moment and self._is_whole else piece.file
                values = self._range(file, stored_name(name, moment) + piece.suffix, first - piece.start, end - first)
                found[first - start : end - start] = values
        return found

    def _range(self, file: str, name: str, start: int, count: int) -> Tensor:
        """Elements of the flat row of a tensor in a file; only the rows around them are touched."""
        try:
            stored = self._file(file).get_slice(name)
            shape = stored.get_shape()
            if not shape:
                return self._file(file).get_tensor(name).flatten()
            width = prod(shape[1:])
            first, end = start // width, -(-(start + count) // width)
            values = stored[first:end].flatten()[start - first * width :][:count]
            if len(values) != count or values.dtype != torch.float32:
                raise UserError(f"{self._path / file} is damaged: {name} is not as the index has it")
        except (safetensors.SafetensorError, ValueError, IndexError) as error:
            raise UserError(f"{self._path / file} is damaged: {error}") from error
        return values

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = safetensors.safe_open(self._path / name, "pt")
            except (OSError, safetensors.SafetensorError) as error:
                raise UserError(f"{self._path / name} is damaged: {error}") from error
        return self._open[name]

    def _list_whole_tensors(self, files: dict[str, Any]) -> None:
        """Of an export or a checkpoint of format 1."""
        for file in files:
            if file.endswith(".safetensors") and file != OPTIMIZER:
                for name in self._file(file).keys():  # noqa: SIM118 - no mapping
                    shape = tuple(self._file(file).get_slice(name).get_shape())
                    self.shapes[name] = shape
                    self._pieces[name] = [_Piece(file, "", 0, prod(shape))]

    def _list_pieces(self, parts: list[str], tensors: dict[str, Any], files: dict[str, Any]) -> None:
        """Of the index's lists."""
        for name, entry in tensors.items():
            self.shapes[name] = tuple(entry["shape"])
            self._pieces[name] = []
            end = 0
            for number, start, count in entry["pieces"]:
                if start != end or parts[number] not in files:
                    raise ValueError(name)
                self._pieces[name].append(_Piece(parts[number], f"@{start}", start, count))
                end += count
            if end != prod(self.shapes[name]):
                raise ValueError(name)
