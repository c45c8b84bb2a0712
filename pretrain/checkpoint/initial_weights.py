"""The weights that a new run starts from: those of a checkpoint or an export, for a model that may have more scales."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from data_pipeline import UserError
from maha_model import ModelConfig
from maha_model.more_scales import can_grow, grown, source_of
from pretrain.checkpoint.format import read_info
from pretrain.checkpoint.models import model_config
from pretrain.checkpoint.tensors import CheckpointTensors


class InitialWeights:
    """Float32 weights by the names of a new model's parameters, read as from `CheckpointTensors`, without moments."""

    def __init__(self, path: Path, config: ModelConfig, shapes: Mapping[str, Sequence[int]]) -> None:
        """`shapes` are those of the parameters of a model of `config`.

        Raises:
            UserError: if the checkpoint is damaged, or its model has other parameters than its scales account for.
        """
        self._scales = config.num_scales - model_config(read_info(path)).num_scales
        self._tensors = CheckpointTensors(path)
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._sources: dict[str, str] = {}
        for name, shape in self._shapes.items():
            source = source_of(name, self._tensors.shapes)
            if source is None:
                if self._scales > 0:
                    continue
                raise UserError(f"{path} has no {name}; it is of another model")
            trained = self._tensors.shapes[source]
            if trained != shape and not (self._scales > 0 and can_grow(trained, shape, self._scales)):
                raise UserError(f"{path} has {source} as {list(trained)}, not {list(shape)}; it is of another model")
            self._sources[name] = source

    def __contains__(self, name: str) -> bool:
        """False for a parameter of a new scale that starts afresh."""
        return name in self._sources

    def whole(self, name: str) -> Tensor:
        """A parameter's weights. Raises UserError if their file is damaged or missing."""
        weight = self._tensors.whole(self._sources[name])
        shape = self._shapes[name]
        return weight if weight.shape == shape else grown(weight, shape[0], self._scales)

    def read(self, name: str, start: int, count: int, moment: str = "") -> Tensor:
        """`count` elements from `start` on of the flat row of a parameter. Raises as `whole` does."""
        assert not moment, "initial weights have no moments"
        source = self._sources[name]
        if self._tensors.shapes[source] == self._shapes[name]:
            return self._tensors.read(source, start, count)
        return self.whole(name).flatten()[start : start + count]
