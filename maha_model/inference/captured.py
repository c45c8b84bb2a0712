"""A state's step on a GPU as CUDA graphs: one for every number of scales that finish a token."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from maha_model.kernels.dispatch import warn_once

Step = Callable[[Tensor], Tensor]


class _Graph(NamedTuple):
    """A captured step, and where it takes its input and leaves its result."""

    given: Tensor
    result: Tensor
    replay: Callable[[], None]


class CapturedSteps:
    """The steps of one state, without gradients; each kind runs once as it is, is captured once and replayed after.

    A graph changes the very tensors that the state had when it was captured.
    """

    def __init__(self) -> None:
        self._kinds: dict[int, _Graph | None] = {}
        self._failed = False

    def run(self, step: Step, new: Tensor, finished: int) -> Tensor:
        """step(new), of which a graph is made at the second call.

        Where a step cannot be captured, all go on as they are, with one RuntimeWarning.

        Args:
            step: changes the state's tensors in place, and depends on no number of the host that changes but
                `finished`.
            new: its input, on the GPU.
            finished: scales that finish a token.
        """
        if finished not in self._kinds or self._failed:
            self._kinds[finished] = None  # it may compile kernels, tune them and reserve memory: not inside of a graph
            return step(new)
        with torch.cuda.device_of(new):
            graph = self._kinds[finished]
            if graph is None:
                try:
                    graph = self._kinds[finished] = _captured(step, new)
                except RuntimeError as error:
                    reason = str(error).strip().splitlines()[0]
                    warn_once("decoding", f"a step could not be captured as a CUDA graph ({reason}) and runs as it is")
                    self._failed = True
                    return step(new)
            graph.given.copy_(new)
            graph.replay()
            return graph.result.clone()

    def forget(self) -> None:
        """The state has other tensors from now on."""
        self._kinds.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()


def _captured(step: Step, new: Tensor) -> _Graph:
    """Nothing of the step has run after this."""
    with torch.inference_mode(False):  # whose tensors could not be written to outside of it
        given = torch.zeros_like(new)
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # thread_local: other threads, of a progress bar or a server, may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = step(given)
    except RuntimeError:
        torch.cuda.set_stream(before)  # the end of a broken capture fails before torch does
        raise
    return _Graph(given, result, graph.replay)
