"""A state's step as compiled code: a graph for every number of scales that finish a token, shared by its model."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from maha_model.kernels.dispatch import warn_once

_SELDOM = 32  # compiling takes seconds: a step that comes but once in more tokens than these stays as it is

State = TypeVar("State")
Step = Callable[[State, Tensor], Tensor]

_of_models: WeakKeyDictionary[nn.Module, dict[tuple[Step[Any], int], Step[Any] | None]] = WeakKeyDictionary()


def _compile(step: Step[Any]) -> Step[Any]:
    apart: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": 64}  # torch's annotations lack them
    # What size_asserts would assert at every step, guards have compared before the first.
    return torch.compile(step, fullgraph=True, options={"size_asserts": False}, **apart)


class CompiledSteps:
    """The compiled steps of one state of a model; `model` is a module that no other model has.

    torch's guards, which compare all of the model with what was compiled, take as long as a layer. A state has one
    model for life, so they are evaluated at its first step of each kind, and at the first after `check_again`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._checked: set[int] = set()

    def run(
        self, step: Step[State], state: State, new: Tensor, growing: Iterable[Tensor], finished: int, ratio: int
    ) -> Tensor:
        """step(state, new), compiled if such steps come often.

        Without a compiler for C++ as it is, with one RuntimeWarning.

        Args:
            step: changes the state's tensors in place, depends on no number that changes but `finished`.
            state: what it changes.
            new: its input.
            growing: the state's tensors (B, H, n, d) whose n changes.
            finished: scales that finish a token.
            ratio: r, by which each of them does so less often than the scale before.
        """
        steps = _of_models.setdefault(self._model, {})
        kind = step, finished
        if kind not in steps:
            often = ratio ** (finished - 1) <= _SELDOM
            steps[kind] = _compile(step) if often else None
        compiled = steps[kind]
        if compiled is None:
            return step(state, new)
        if finished in self._checked:
            with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
                return compiled(state, new)
        for x in growing:
            torch._dynamo.mark_dynamic(x, 2)  # noqa: SLF001  # the name in torch's book
        try:
            result = compiled(state, new)
        # Of compiling alone, before anything has run: an error while it runs may leave the state changed in part.
        except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001
            reason = str(error).strip().splitlines()[0]
            warn_once(
                "decoding",
                f"a step could not be compiled ({reason}) and runs uncompiled. Where a C++ compiler is lacking, one "
                "(g++, or a program in CXX) mends it",
            )
            steps[kind] = None
            return step(state, new)
        self._checked.add(finished)
        return result

    def check_again(self) -> None:
        """The state's tensors have other shapes from now on."""
        self._checked.clear()
